"""tritter sizes: the named sizes."""

from rich.console import Console
from tprog import SIZES, count_parameters, named_size

from tritter_jax.cli.output import emit, human_bytes, table


def sizes() -> None:
    """List the named sizes with their true parameter counts.

    Example: tritter sizes
    """
    rows = []
    for name in SIZES:
        config = named_size(name)
        rows.append(
            {
                "name": name,
                "hidden_size": config.hidden_size,
                "num_layers": config.num_layers,
                "num_heads": config.num_heads,
                "num_kv_heads": config.num_kv_heads,
                "head_dim": config.head_dim,
                "intermediate_size": config.intermediate_size,
                "parameters": count_parameters(config),
            }
        )

    def render(console: Console) -> None:
        view = table("size", "hidden", "layers", "heads", "kv", "dim", "mlp", "parameters", "bf16",
                     numbers=tuple(range(1, 9)))  # fmt: skip
        for row in rows:
            name, *numbers = row.values()
            view.add_row(name, *(f"{n:,}" for n in numbers), human_bytes(2 * row["parameters"]))
        console.print(view)
        console.print("kv: key and value heads; dim: width of a head; bf16: bytes of the weights in bfloat16.")
        console.print("Vocabulary 65,536, rope_theta 500,000, embeddings not tied.")

    emit({"vocab_size": named_size("test").vocab_size, "sizes": rows}, render)
