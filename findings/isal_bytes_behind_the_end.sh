#!/usr/bin/env bash
# isal 1.9.1: a few bytes behind the end of a gzip stream are reported as a file that ended too early.
#
# Guess: isal.igzip, a drop-in replacement for gzip, raises BadGzipFile for them, as gzip does, naming the bytes.
# Seen: so it does for ten bytes and more. Fewer, such as a line end that a transfer added, are taken for the beginning
# of another header: EOFError "Compressed file ended before the end-of-stream marker was reached". The file is thus
# taken for one that was cut off, and getting it again cannot help.
. "$(dirname "$0")/lib/environment.sh"
run_with 'isal==1.9.1' <<'PY'
import gzip
import io

from isal import igzip

content = gzip.compress(b"a passage\n") + b"\r\n"
try:
    gzip.GzipFile(fileobj=io.BytesIO(content)).read()
except gzip.BadGzipFile as error:
    print("gzip:", repr(error))
try:
    igzip.IGzipFile(fileobj=io.BytesIO(content)).read()
except EOFError as error:
    print("isal:", repr(error))
    assert "ended before the end-of-stream marker" in str(error)
else:
    raise AssertionError("isal reports something else now")
# Behind the end, zeros are padding to both.
padded = gzip.compress(b"a passage\n") + bytes(16)
assert gzip.decompress(padded) == igzip.decompress(padded) == b"a passage\n"
PY
