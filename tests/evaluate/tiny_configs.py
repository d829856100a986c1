"""Sizes of models that are built from a configuration, without a folder."""


def tiny_sizes(vocab_size: int) -> dict[str, int]:
    """Arguments of a transformers configuration: two layers, and the tokens that begin, end and fill a text."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
