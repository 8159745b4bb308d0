#!/usr/bin/env python3
"""Writes transformers/llama, qwen3 and qwen3_moe: tiny random checkpoints saved by transformers itself, with
its logits for some tokens in expected.safetensors (tokens I32, logits F32 [windows, positions, vocab]).

Needs torch and transformers; the test that reads the folders needs neither. Parameters are spread far
from their initialisation (norm weights too), rounded to float32; logits are computed in float32."""

import argparse
import pathlib

import torch
from safetensors.torch import save_file
from transformers import (LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig,
                          Qwen3MoeForCausalLM)

COMMON = dict(
    vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=44, max_position_embeddings=64, attention_bias=False, bos_token_id=0, eos_token_id=1,
)
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(
        **COMMON, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 3000.0})),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(
        **COMMON, head_dim=12, rms_norm_eps=1e-6, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0})),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(
        **COMMON, head_dim=8, rms_norm_eps=1e-6, tie_word_embeddings=True, num_experts=5,
        num_experts_per_tok=2, moe_intermediate_size=12, norm_topk_prob=True, decoder_sparse_step=1,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0})),
}


def main():
    ap = argparse.ArgumentParser(description="Write the transformers checkpoints (see the head of this file).")
    here = pathlib.Path(__file__).resolve().parent
    ap.add_argument("--out", type=pathlib.Path, default=here / "transformers", help="folder to write to")
    ap.add_argument("model", nargs="*", help=f"of: {' '.join(MODELS)} (default: all)")
    args = ap.parse_args()
    torch.set_num_threads(1)
    for name in args.model or MODELS:
        make = MODELS[name]
        torch.manual_seed(20)
        model = make().eval()
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim == 1:
                    p.copy_(1 + 0.3 * torch.randn_like(p))
                else:
                    p.copy_(1.2 * torch.randn_like(p) / p.shape[1] ** 0.5)
            tokens = torch.randint(COMMON["vocab_size"], (2, 24))
            logits = model(tokens).logits
        folder = args.out / name
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        save_file({"tokens": tokens.to(torch.int32), "logits": logits.contiguous()},
                  folder / "expected.safetensors")
        print(name, "logits rms", logits.pow(2).mean().sqrt().item(),
              {f.name: f.stat().st_size for f in folder.iterdir()})


if __name__ == "__main__":
    main()
