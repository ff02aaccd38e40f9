"""What the model computes: against the official implementation, a plain reference, and its own promises."""

from __future__ import annotations

import json
import string

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sentence_transformers.multi_vector_encoder.scoring import colbert_scores
from torch import nn

from baselines.preflmr import PreFLMR, PreFLMRConfig
from baselines.preflmr.checkpoint import official_state_dict
from baselines.preflmr.network import PreFLMRNetwork
from baselines.preflmr.scoring import batch_maxsim, maxsim
from m2kr.errors import M2KRError
from tests.baselines.preflmr import reference
from tests.baselines.preflmr.make_fixtures import LEADS, LETTERS, WORDS, configuration
from tests.tolerance import assert_vectors_near, assert_within, gamma, maxsim_table, same_network_errors

PARAMETERS = {
    "flmr": 207_011_072,
    "preflmr_vit_b": 326_725_504,
    "preflmr_vit_l": 543_170_176,
    "preflmr_vit_g": 2_084_569_984,
}
VISION = {
    "preflmr_vit_b": {},
    "preflmr_vit_l": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16},
    "preflmr_vit_g": {"hidden_size": 1664, "intermediate_size": 8192, "num_attention_heads": 16, "hidden_act": "gelu"},
}
words = st.lists(st.sampled_from(WORDS.split()[:-1]), min_size=1, max_size=10).map(" ".join)
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@torch.no_grad()
def test_the_official_values_are_computed(case):
    model = PreFLMR.from_pretrained(case.folder)
    expected = case.expected
    queries = model.query_tokenizer(case.inputs["queries"])
    documents = model.document_tokenizer(
        case.inputs["documents"], padding="max", maxlen=case.inputs["document_max_length"]
    )
    for side, encoding in (("query", queries), ("context", documents)):
        assert torch.equal(encoding.input_ids, expected[f"{side}_input_ids"])
        assert torch.equal(encoding.attention_mask, expected[f"{side}_attention_mask"])
    query = model.query(*queries, expected["query_pixel_values"])
    document = model.document(*documents)
    official = expected["query_late_interaction_output"], expected["context_late_interaction_output"]
    assert_vectors_near(query.embeddings, official[0])
    assert_vectors_near(document.embeddings, official[1])
    assert torch.equal(document.mask, expected["context_mask"].bool())
    scores, wanted = model.score(query.embeddings, document.embeddings, document.mask), expected["all_pairs_maxsim"]
    errors = same_network_errors(*official)
    assert_within(scores, wanted, errors)
    losses = reference.contrastive_losses(scores.tolist(), case.inputs["num_negative_examples"])
    assert_within(losses, (expected["in_batch_loss"].item(), expected["pairwise_loss"].item()), errors.max())


@torch.no_grad()
def test_a_plain_reference_agrees(case):
    model = PreFLMR.from_pretrained(case.folder)
    weights = {name: tensor.double() for name, tensor in official_state_dict(model).items()}
    vocabulary = (case.folder / "query_tokenizer" / "vocab.txt").read_text().splitlines()
    colon = vocabulary.index(":") if case.config["mask_instruction_token"] else None
    dropped = {vocabulary.index(symbol) for symbol in (*string.punctuation, "[PAD]")}
    queries = model.query_tokenizer(case.inputs["queries"])
    documents = model.document_tokenizer(case.inputs["documents"])
    pixels = case.expected["query_pixel_values"]
    query, document = model.query(*queries, pixels), model.document(*documents)

    images = pixels.double() if pixels.ndim == 5 else pixels.double()[:, None]
    plain = [
        reference.query(weights, case.config, ids, attended, list(regions), colon)
        for ids, attended, regions in zip(*map(torch.Tensor.tolist, queries), images, strict=True)
    ]
    assert_vectors_near(query.embeddings, torch.stack(plain))
    passages = [
        reference.document(weights, case.config, ids, attended, dropped)
        for ids, attended in zip(*map(torch.Tensor.tolist, documents), strict=True)
    ]
    found = [vectors[counted] for vectors, counted in zip(document.embeddings, document.mask, strict=True)]
    for vectors, passage in zip(found, passages, strict=True):
        assert_vectors_near(vectors, passage)

    # Of the model's own embeddings: how near those are is seen, and a score adds up what they are off by.
    scores = [[reference.score(q, d.double()) for d in found] for q in query.embeddings.double()]
    found_scores = model.score(query.embeddings, document.embeddings, document.mask)
    assert_within(found_scores, scores, maxsim_table(query.embeddings, found)[1])


@pytest.mark.parametrize("name", ["flmr_vit_b", "preflmr_vit_b", "preflmr_vit_l", "preflmr_vit_g"])
def test_names_and_shapes_are_the_official_ones(golden, name):
    listed = json.loads((golden / "state_dicts" / f"state_dict_{name}.json").read_text())
    config = PreFLMRConfig.from_folder(golden / "configs" / ("flmr" if name.startswith("flmr") else name))
    with torch.device("meta"):
        model = PreFLMRNetwork(config)
    assert {name: list(tensor.shape) for name, tensor in official_state_dict(model).items()} == listed["tensors"]
    assert sum(parameter.numel() for parameter in model.parameters()) == listed["parameters"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_published_models_have_so_many_parameters(name):
    value = {"model_type": "flmr", "text_config": None, "vision_config": VISION.get(name)}
    if name == "flmr":
        value["text_config"] = {"vocab_size": 30531}
    else:
        value |= {
            "separate_query_and_context_text_encoder": True,
            "use_transformer_mapping_network": True,
            "transformer_mapping_config_base": "bert-base-uncased",
            "transformer_mapping_num_hidden_layers": 1,
        }
        if name != "preflmr_vit_b":
            value["vision_config"] |= {"patch_size": 14, "num_hidden_layers": 24 if name.endswith("l") else 48}
    with torch.device("meta"):
        model = PreFLMRNetwork(PreFLMRConfig.from_json(value))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@quick
@given(question=words, other=words, lead=st.sampled_from(LEADS), seed=st.integers(0, 99))
@torch.no_grad()
def test_masked_instruction_tokens_add_nothing_to_a_score(model, question, other, lead, seed):
    query = model.query(*model.query_tokenizer([f"{lead} {question}"]))
    document = model.document(*model.document_tokenizer([other]))
    ids = model.query_tokenizer([f"{lead} {question}"]).input_ids[0]
    colon = model.query_tokenizer.first_id(":")
    end = ids.tolist().index(colon)
    hidden = torch.arange(len(ids))[2 : end + 1]
    assert query.mask[0].logical_not().nonzero().flatten().tolist() == hidden.tolist()
    assert torch.count_nonzero(query.embeddings[0, hidden]) == 0
    # Whatever a document is like: zero vectors stay at zero even where all similarities are negative.
    noise = torch.randn(document.embeddings.shape, generator=torch.Generator().manual_seed(seed))
    for vectors in (document.embeddings, noise):
        counted = maxsim_table(query.embeddings[:, query.mask[0]], [vectors[0][document.mask[0]]])
        assert_within(model.score(query.embeddings, vectors, document.mask), *counted)


@quick
@given(text=st.text(alphabet=LETTERS + string.punctuation + " ", max_size=30), question=words)
@torch.no_grad()
def test_punctuation_and_padding_never_match(model, text, question):
    query = model.query(*model.query_tokenizer([question]))
    encoding = model.document_tokenizer([text], padding="max")
    document = model.document(*encoding)
    vocabulary = (model.document_tokenizer.files["vocab.txt"]).decode().splitlines()
    symbols = [vocabulary[token] not in (*string.punctuation, "[PAD]") for token in encoding.input_ids[0].tolist()]
    assert document.mask[0].tolist() == symbols
    # Vectors that would win every maximum if they counted.
    loud = torch.where(document.mask[..., None], document.embeddings, 1e4)
    score = model.score(query.embeddings, document.embeddings, document.mask)
    assert torch.equal(model.score(query.embeddings, loud, document.mask), score)
    assert torch.equal(
        model.score(query.embeddings, -loud.where(~document.mask[..., None], -loud), document.mask), score
    )


@quick
@given(texts=st.lists(words, min_size=1, max_size=5), more=st.integers(1, 30))
@torch.no_grad()
def test_padding_does_not_change_a_document(model, texts, more):
    short = model.document_tokenizer(texts)
    width = short.input_ids.shape[1]
    wide = model.document_tokenizer(texts, padding="max", maxlen=width + more)
    assert wide.input_ids.shape[1] == width + more
    assert torch.equal(wide.input_ids[:, :width], short.input_ids)
    near, far = model.document(*short), model.document(*wide)
    assert_vectors_near(far.embeddings[:, :width], near.embeddings)
    assert torch.equal(far.mask[:, :width], near.mask)
    assert not far.mask[:, width:].any()


@quick
@given(data=st.data(), texts=st.lists(words, min_size=2, max_size=6))
@torch.no_grad()
def test_permuting_documents_permutes_scores(model, data, texts):
    order = data.draw(st.permutations(range(len(texts))))
    query = model.query(*model.query_tokenizer(["who built the bridge", "red owl"]))
    document = model.document(*model.document_tokenizer(texts))
    again = model.document(*model.document_tokenizer([texts[row] for row in order]))
    assert_vectors_near(again.embeddings, document.embeddings[order])
    assert torch.equal(again.mask, document.mask[order])
    # Of embeddings that are equal, not only close: a score is a sum over the query's tokens, and so are its errors.
    scores = model.score(query.embeddings, document.embeddings, document.mask)
    permuted = model.score(query.embeddings, document.embeddings[order], document.mask[order])
    errors = maxsim_table(query.embeddings, document.embeddings)[1]
    assert_within(permuted, scores[:, order], 2 * errors[:, order])


@torch.no_grad()
def test_an_image_adds_vectors_and_leaves_those_of_the_text(model):
    texts = [f"{LEADS[0]} what is this?", LEADS[1]]
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    encoding = model.query_tokenizer(texts)
    text, both = model.query(*encoding), model.query(*encoding, pixels)
    assert text.embeddings.shape == (2, 32, 8)
    assert both.embeddings.shape == (2, 32 + 3 + 4, 8)  # projections, then four patches
    assert_vectors_near(both.embeddings[:, :32], text.embeddings)
    assert both.mask[:, 32:].all()
    torch.testing.assert_close(both.embeddings.norm(dim=-1), both.mask.float())


@torch.no_grad()
def test_patches_look_at_later_patches(model):
    """SDPA takes a decoder for causal, which would leave the first patch's vector as it is here."""
    encoding = model.query_tokenizer(["what is this?"])
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    patches = torch.randn(1, 4, 12, generator=torch.Generator().manual_seed(3))
    hidden = model.query_text_encoder(encoding.input_ids, attention_mask=encoding.attention_mask).last_hidden_state
    changed = patches.clone()
    changed[:, 3] += 1
    before, after = model.mapping_network(patches, hidden), model.mapping_network(changed, hidden)
    assert (before[0, 0] - after[0, 0]).abs().max() > 1e-3
    assert model.query(*encoding, pixels).embeddings.shape[1] == 39


@torch.no_grad()
def test_each_region_gives_what_it_gives_alone(model):
    pixels = torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    encoding = model.query_tokenizer(["what is this?", "who built the tower"])
    together = model.query(*encoding, pixels).embeddings
    alone = [model.query(*encoding, pixels[:, region]).embeddings for region in range(3)]
    assert_vectors_near(together[:, :32], alone[0][:, :32])
    assert_vectors_near(together[:, 32:41], torch.cat([part[:, 32:35] for part in alone], dim=1))
    assert_vectors_near(together[:, 41:], torch.cat([part[:, 35:] for part in alone], dim=1))


@torch.no_grad()
def test_a_plain_reference_agrees_on_passages_with_images(case, tmp_path):
    """The official values hold none, so that the rule is computed twice: projections, then the text's vectors."""
    config = case.config | {"context_concat_output_from_vision_encoder": True}
    for name in ("model.safetensors", "query_tokenizer", "context_tokenizer"):
        (tmp_path / name).symlink_to(case.folder / name)
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = PreFLMR.from_pretrained(tmp_path)
    weights = {name: tensor.double() for name, tensor in official_state_dict(model).items()}
    vocabulary = (case.folder / "query_tokenizer" / "vocab.txt").read_text().splitlines()
    dropped = {vocabulary.index(symbol) for symbol in (*string.punctuation, "[PAD]")}
    documents = model.document_tokenizer(case.inputs["documents"])
    pixels = case.expected["query_pixel_values"]
    images = (pixels if pixels.ndim == 4 else pixels[:, 0]).repeat(len(case.inputs["documents"]), 1, 1, 1)
    images = images[: len(case.inputs["documents"])]
    found = model.document(*documents, images)
    for row, (ids, attended) in enumerate(zip(*map(torch.Tensor.tolist, documents), strict=True)):
        wanted = reference.document(weights, config, ids, attended, dropped, [images[row].double()])
        assert_vectors_near(found.embeddings[row][found.mask[row]], wanted)


@torch.no_grad()
def test_images_of_passages_come_first(folder, tmp_path):
    value = configuration("preflmr") | {"context_concat_output_from_vision_encoder": True}
    for name in ("model.safetensors", "query_tokenizer", "context_tokenizer"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "config.json").write_text(json.dumps(value))
    model = PreFLMR.from_pretrained(tmp_path)
    encoding = model.document_tokenizer(["A red owl.", "the river"])
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    text, both = model.document(*encoding), model.document(*encoding, pixels)
    assert_vectors_near(both.embeddings[:, 3:], text.embeddings)
    assert torch.equal(both.mask[:, 3:], text.mask)
    assert both.mask[:, :3].all()
    query = model.query(*model.query_tokenizer(["owl", "owl"]), pixels)
    assert_vectors_near(both.embeddings[:, :3], query.embeddings[:, 32:35])


@quick
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))
def test_maxsim_of_a_batch_equals_the_libraries_and_so_do_its_gradients(seed: int, count: int, group: int, width: int):
    drawn = torch.Generator().manual_seed(seed)
    queries = torch.randn(count, 5, 8, generator=drawn).requires_grad_()
    documents = torch.randn(count, group, width, 8, generator=drawn).requires_grad_()
    counted = (torch.rand(count, 5, generator=drawn) < 0.7).long()
    mask = (torch.rand(count, group, width, generator=drawn) < 0.6).long()  # some passages have nothing that counts
    weights = torch.randn(count, count * group, generator=drawn)
    kept = [vectors[counts.bool()] for vectors, counts in zip(documents.flatten(0, 1), mask.flatten(0, 1), strict=True)]
    for vectors in kept:  # the gradient follows the greatest product, and rounding may decide which of two that is
        highest = (queries.flatten(0, 1) @ vectors.T).sort(dim=1, descending=True).values
        assume(len(vectors) < 2 or (highest[:, 0] - highest[:, 1]).min() > 1e-4)
    found = []
    for function in (batch_maxsim, colbert_scores):
        queries.grad = documents.grad = None
        scores = function(queries, documents, queries_mask=counted, documents_mask=mask)
        (scores.clamp(min=-1e8) * weights).sum().backward()
        found.append((scores.detach(), queries.grad, documents.grad))
    table, errors = maxsim_table(queries * counted[..., None], kept)
    table[:, [not len(vectors) for vectors in kept]] = -1e9
    longest = max(float(vectors.detach().norm(dim=-1).max()) for vectors in (queries, documents))
    for scores, *_ in found:
        assert_within(scores, table, errors)
    for mine, theirs in zip(found[0][1:], found[1][1:], strict=True):
        assert_within(mine, theirs, 2 * gamma(64) * float(weights.abs().sum()) * 5 * longest)
    half = batch_maxsim(queries.bfloat16(), documents.bfloat16(), counted, mask)
    assert half.dtype == torch.float32
    # bfloat16 rounds vectors and products to 8 binary digits.
    assert_within(half.detach(), table, maxsim_table(queries, kept, relative=2**-7)[1])


def test_maxsim_is_the_sum_of_the_greatest_products():
    generator = torch.Generator().manual_seed(6)
    queries, documents = torch.randn(3, 4, 5, generator=generator), torch.randn(2, 6, 5, generator=generator)
    mask = torch.rand(2, 6, generator=generator) < 0.5
    mask[:, 0] = True
    plain = [[reference.score(q, d[keep]) for d, keep in zip(documents, mask, strict=True)] for q in queries]
    errors = maxsim_table(queries, documents)[1]
    assert_within(maxsim(queries, documents, mask), plain, errors)
    assert maxsim(queries, documents, torch.zeros_like(mask)).eq(-torch.inf).all()


def test_gradients_reach_every_parameter_that_requires_them(folder):
    model = PreFLMR.from_pretrained(folder)
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(8))
    query = model.query(*model.query_tokenizer([f"{LEADS[0]} who built it", "red owl"]), pixels)
    document = model.document(*model.document_tokenizer(["a tower", "an owl.", "bell", "river"]))
    scores = model.score(query.embeddings, document.embeddings, document.mask)
    nn.functional.cross_entropy(scores, torch.tensor([0, 2])).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert sorted(without) == [
        "document_text_encoder.pooler.dense.bias",
        "document_text_encoder.pooler.dense.weight",
        "query_text_encoder.pooler.dense.bias",
        "query_text_encoder.pooler.dense.weight",
        "vision_encoder.post_layernorm.bias",
        "vision_encoder.post_layernorm.weight",
    ]
    assert without == [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_tied_parts_are_one_module(flmr_folder, folder):
    flmr, preflmr = PreFLMR.from_pretrained(flmr_folder), PreFLMR.from_pretrained(folder)
    assert flmr.document_text_encoder is flmr.query_text_encoder
    assert flmr.document_text_linear is flmr.query_text_linear
    assert flmr.mapping_network is None
    assert preflmr.document_text_encoder is not preflmr.query_text_encoder
    assert preflmr.document_vision_encoder is preflmr.vision_encoder
    assert preflmr.document_vision_projection is preflmr.vision_projection


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@torch.no_grad()
def test_half_precision_is_near_and_has_no_nan(model, folder, dtype):
    half = PreFLMR.from_pretrained(folder, dtype=dtype)
    assert {parameter.dtype for parameter in half.parameters()} == {getattr(torch, dtype)}
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    queries = model.query_tokenizer([f"{LEADS[0]} who built it?", LEADS[1]])
    documents = model.document_tokenizer(["An owl, red.", "the tower was built by the river"])
    for near, far in (
        (half.query(*queries, pixels), model.query(*queries, pixels)),
        (half.document(*documents), model.document(*documents)),
    ):
        assert near.embeddings.dtype == getattr(torch, dtype)
        assert torch.equal(near.mask, far.mask)
        assert (near.embeddings[~near.mask] == 0).all()
        # Random weights of this size make attention sharp; trained ones are nearer.
        products = (near.embeddings.float() * far.embeddings).sum(dim=-1)[far.mask]
        assert products.min() > (0.999 if dtype == "float16" else 0.97)
    scores = half.score(half.query(*queries).embeddings, *half.document(*documents))
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()


def test_what_the_model_cannot_read_is_refused(model, flmr_folder):
    encoding = model.query_tokenizer(["owl", "red"])
    documents = model.document_tokenizer(["owl", "red"])
    for pixels in (torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 16, 16), torch.zeros(2, 0, 3, 16, 16), torch.zeros(2)):
        with pytest.raises(M2KRError, match="pixel_values has the shape"):
            model.query(*encoding, pixels)
    with pytest.raises(M2KRError, match="images of passages"):
        model.document(*documents, torch.zeros(2, 3, 16, 16))
    with pytest.raises(M2KRError, match="without masks"):
        PreFLMRNetwork(model.config).query(*encoding)
    with pytest.raises(M2KRError, match="attention_mask"):
        model.query(encoding.input_ids, encoding.attention_mask[:1])
    with pytest.raises(M2KRError, match="must be"):
        model.score(torch.zeros(1, 2, 8), torch.zeros(1, 3, 8), torch.ones(1, 2))
    with pytest.raises(M2KRError, match="padding_mask 'other'"):
        PreFLMR.from_pretrained(flmr_folder, padding_mask="other")


def test_new_models_differ_in_every_part_and_are_finite():
    torch.manual_seed(0)
    model = PreFLMRNetwork(PreFLMRConfig.from_json(configuration("preflmr")))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.isfinite().all()
            assert module.weight.std() > 0
