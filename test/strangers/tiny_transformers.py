"""Writes a model for transformers, with random weights, the same each time. Its tokens are bytes and some
words; those that are no text on their own are never the likeliest."""

import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["Ġ" + word for word in "the sea wave folds into foam and wind over sand".split()]
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "
)

torch.manual_seed(7)
texts = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *WORDS]
vocabulary = {text: token for token, text in enumerate(texts)}
bytewise = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytewise.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=bytewise, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
)
config = LlamaConfig(
    vocab_size=len(texts),
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=4096,
    bos_token_id=0,
    eos_token_id=1,
)
model = LlamaForCausalLM(config)
with torch.no_grad():
    for weights in model.parameters():
        if weights.ndim == 2:
            weights.normal_(0, weights.shape[-1] ** -0.5)
    likely = torch.tensor([text in LETTERS or text in WORDS for text in texts])
    model.lm_head.weight.mul_(4 * likely[:, None])
# As in published models: without it, the temperature has no effect.
model.generation_config = GenerationConfig(do_sample=True, bos_token_id=0, eos_token_id=1)
model.save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
