# For the tables: a corpus c.txt, a configuration t.yaml, the finished run `run` of it, a tokenizer bpe.json of
# another vocabulary, and functions that make broken things.
i=0
while [ $i -lt 400 ]; do
    printf 'line %d of a small text about nothing\n' $i
    i=$((i + 1))
done >c.txt
cat >t.yaml <<'YAML'
model: {layers: 1, dim: 16, heads: 2, ffn: 32, seq: 16}
data: {corpus: c.txt}
train: {steps: 2, batch: 2, warmup: 0, eval_windows: 4, probe_every: 0}
precision: fp32
threads: 1
YAML
"$sinklab" train t.yaml --out run 2>train.log || { cat train.log >&2; return 1; }
# All bytes as tokens in the order of the byte-level alphabet, no merges.
python3 - >bpe.json <<'PYTHON'
import json
plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
rest = [b for b in range(256) if b not in plain]
alphabet = [chr(b) for b in plain] + [chr(256 + i) for i in range(len(rest))]
model = {"type": "BPE", "vocab": {c: i for i, c in enumerate(alphabet + ["ab"])}, "merges": [["a", "b"]]}
special = {"id": 257, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False,
           "normalized": False, "special": True}
byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
print(json.dumps({"version": "1.0", "added_tokens": [special], "pre_tokenizer": byte_level, "decoder": byte_level,
                  "model": model}))
PYTHON

# broken NAME: a copy of the run's only checkpoint, to be damaged
broken() { cp -r run/checkpoints/00000002 "$1"; }
# flip FILE: inverts a byte in the middle
flip() {
    python3 - "$1" <<'PYTHON'
import pathlib, sys
path = pathlib.Path(sys.argv[1])
data = bytearray(path.read_bytes())
data[len(data) // 2] ^= 255
path.write_bytes(data)
PYTHON
}
# npy FILE DTYPE SHAPE VALUE...: an array file
npy() {
    python3 - "$@" <<'PYTHON'
import struct, sys
name, dtype, shape, *values = sys.argv[1:]
head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
head += " " * (-(len(head) + 11) % 64) + "\n"
code = {"<i4": "i", "<i8": "q", "<f4": "f"}[dtype]
data = struct.pack(f"<{len(values)}{code}", *[(float if code == "f" else int)(v) for v in values])
open(name, "wb").write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + data)
PYTHON
}
