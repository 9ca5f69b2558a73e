"""What training costs: floating-point operations a token, forward and backward."""

from tprog import ModelConfig, count_parameters


def flops_a_token(model: ModelConfig, length: int) -> int:
    """Floating-point operations of forward and backward; Chowdhery et al. 2022, "PaLM", appendix B.

    Six a weight that is multiplied with (the embedding is looked up), and twelve a layer, head, head dimension and
    position for attention's scores and sums.

    Args:
        model: the configuration.
        length: tokens of a row.
    """
    embedding = model.vocab_size * model.hidden_size
    scores = 12 * model.num_layers * model.num_heads * model.head_dim * length
    return 6 * (count_parameters(model) - embedding) + scores
