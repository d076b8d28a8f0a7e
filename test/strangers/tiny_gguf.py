"""Writes a model for llama.cpp, with random weights, the same each time. Its tokens are bytes, letters and
some words; those that are no text on their own are never the likeliest."""

import sys

import gguf
import numpy as np

LAYERS, WIDTH, HEADS, FORWARD, CONTEXT = 2, 64, 4, 128, 4096
WORDS = "the sea a wave folds into foam and wind over sand é → 🌊 , . ! -".split()

random = np.random.default_rng(7)
others = [
    ("<unk>", gguf.TokenType.UNKNOWN),
    ("<s>", gguf.TokenType.CONTROL),
    ("</s>", gguf.TokenType.CONTROL),
    *((f"<0x{byte:02X}>", gguf.TokenType.BYTE) for byte in range(256)),
]
texts = [*("▁" + word for word in WORDS), *WORDS, *"bcdefghijklmnopqrstuvwxyz▁\n"]
tokens = [*others, *((text, gguf.TokenType.NORMAL) for text in texts)]
model = gguf.GGUFWriter(sys.argv[1], "llama")


def weights(name, rows, columns, scale=1.0):
    values = random.normal(0, scale * columns**-0.5, (rows, columns)).astype(np.float32)
    model.add_tensor(name, values)
    return values


def norm(name):
    model.add_tensor(name, np.ones(WIDTH, np.float32))


model.add_context_length(CONTEXT)
model.add_embedding_length(WIDTH)
model.add_block_count(LAYERS)
model.add_feed_forward_length(FORWARD)
model.add_head_count(HEADS)
model.add_head_count_kv(HEADS)
model.add_layer_norm_rms_eps(1e-5)
model.add_rope_dimension_count(WIDTH // HEADS)
model.add_vocab_size(len(tokens))
model.add_tokenizer_model("llama")
model.add_token_list([text for text, _ in tokens])
model.add_token_scores([0.0] * len(tokens))
model.add_token_types([kind for _, kind in tokens])
model.add_unk_token_id(0)
model.add_bos_token_id(1)
model.add_eos_token_id(2)
model.add_add_bos_token(True)
model.add_add_space_prefix(False)
weights("token_embd.weight", len(tokens), WIDTH)
weights("output.weight", len(tokens), WIDTH, 4)[: len(others)] = 0
norm("output_norm.weight")
for layer in range(LAYERS):
    for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
        weights(f"blk.{layer}.{part}.weight", WIDTH, WIDTH)
    weights(f"blk.{layer}.ffn_gate.weight", FORWARD, WIDTH)
    weights(f"blk.{layer}.ffn_up.weight", FORWARD, WIDTH)
    weights(f"blk.{layer}.ffn_down.weight", WIDTH, FORWARD)
    norm(f"blk.{layer}.attn_norm.weight")
    norm(f"blk.{layer}.ffn_norm.weight")
model.write_header_to_file()
model.write_kv_data_to_file()
model.write_tensors_to_file()
model.close()
