"""How many of everything a scale of the made-up world gives."""

from __future__ import annotations

import math

from m2kr.synthetic.things import ENTITY_TYPES

POOL = 36  # so many entities share two people for each type


class Sizes:
    """How many of everything a scale gives; each number has a smallest value that keeps the tiniest world usable."""

    def __init__(self, scale: float) -> None:
        """Work the numbers out of the factor that was asked for."""

        def size(at_scale_1: int, at_least: int) -> int:
            return max(at_least, round(at_scale_1 * scale))

        self.scale = scale
        self.asked = size(250, 10)  # entities that questions and pictures are about: entities 0..asked-1
        self.distractors = size(250, 6)  # further entities that only have articles: the numbers after those
        self.train_pictures = size(330, 18)  # in COCO train2014, of the first four fifths of the asked entities
        self.val_pictures = size(150, 6)  # in COCO val2014, of all asked entities
        self.passages = 4 * size(500, 20)  # of MS MARCO, four for each of entities 0..passages/4-1
        self.train_queries = size(600, 24)  # of MS MARCO, judged
        self.unjudged_queries = size(360, 12)  # further training queries without a judgement
        self.dev_queries = size(150, 8)  # of MS MARCO, all judged
        self.conversations = size(150, 8)  # of LLaVA-Instruct; a picture occurs once per file
        self.details = size(200, 10)  # records of its detail file
        self.reasonings = size(250, 12)  # records of its complex-reasoning file
        self.okvqa_train = size(300, 14)  # questions about train2014 pictures, one per picture
        self.okvqa_val = size(150, 6)  # questions about val2014 pictures, one per picture
        self.wit_train = size(220, 20)  # pictures of WIT's training files, each on one page or more
        self.wit_val = size(110, 12)  # pictures of its validation files; every other one is in IGLUE
        self.portraits = size(150, 10)  # pictures of KVQA, of one or two people each
        self.captions = size(220, 8)  # captioned pictures of CC3M
        self.oven_train = size(260, 16)  # records and pictures, of the first four fifths of the asked entities
        self.oven_val = size(120, 8)  # records and pictures; every other one shows one of the last fifth
        self.infoseek_train = size(320, 24)  # questions about OVEN's training pictures
        self.infoseek_val = size(120, 10)  # questions about OVEN's validation pictures
        self.entities = self.asked + self.distractors  # those that have an article
        self.train_entities = max(1, self.asked * 4 // 5)  # asked entities that training data is about: the first
        self.people = 2 * math.ceil(self.entities / POOL) * len(ENTITY_TYPES)  # who made the entities; `World.maker`
