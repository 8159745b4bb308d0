#!/usr/bin/env python3
"""Compares sinklab's logits with those of transformers for one checkpoint.

  sinklab train ... --out RUN            # a baseline: rmsnorm, swiglu
  sinklab logits RUN --tokens tokens.npy --out logits.npy
  check_transformers.py RUN/checkpoints/<step> tokens.npy logits.npy

tokens.npy: integers [windows, positions] or [positions]; logits.npy: float32 [windows * positions, vocab]
or [windows, positions, vocab]. Ends with exit code 1 if any logit differs by more than the tolerance.
--write-tokens N makes tokens.npy first: windows of random tokens with token 0 of the vocabulary's last id
(BOS of the byte tokenizer). Needs torch, transformers, numpy.
"""

import argparse
import pathlib
import sys

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM


def write_tokens(folder, path, windows, positions):
    vocab = AutoConfig.from_pretrained(folder).vocab_size
    tokens = np.random.default_rng(1).integers(0, vocab, (windows, positions), dtype=np.int32)
    tokens[:, 0] = vocab - 1
    np.save(path, tokens)
    print(f"wrote {path}: {windows} x {positions} tokens below {vocab}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("checkpoint", type=pathlib.Path, help="folder with config.json and model.safetensors")
    ap.add_argument("tokens", type=pathlib.Path)
    ap.add_argument("logits", type=pathlib.Path, nargs="?")
    ap.add_argument("--tolerance", type=float, default=1e-4)
    ap.add_argument("--write-tokens", type=int, nargs=2, metavar=("WINDOWS", "POSITIONS"),
                    help="write random tokens to the tokens file and stop")
    args = ap.parse_args()
    if args.write_tokens:
        return write_tokens(args.checkpoint, args.tokens, *args.write_tokens)
    if args.logits is None:
        ap.error("logits.npy is missing")

    model, info = AutoModelForCausalLM.from_pretrained(
        args.checkpoint, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            sys.exit(f"{args.checkpoint}: transformers reports {kind}: {sorted(info[kind])}")
    tokens = torch.from_numpy(np.atleast_2d(np.load(args.tokens)).astype(np.int64))
    with torch.no_grad():
        want = model.eval()(tokens).logits.numpy()
    got = np.load(args.logits)
    if got.size != want.size:
        sys.exit(f"{args.logits}: shape {got.shape}, transformers gives {want.shape}")
    error = np.abs(got.reshape(want.shape).astype(np.float64) - want).max()
    ok = bool(error <= args.tolerance)  # false for NaN
    print(f"{type(model).__name__}: {want.size} logits, rms {np.sqrt((want ** 2).mean()):.4f}, "
          f"largest difference {error:.3g}: {'within' if ok else 'ABOVE'} {args.tolerance:g}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
