"""What each client does with a model, as its users would write it; run by that client's interpreter.

    python programs.py CLIENT MODEL PROMPT LENGTH

The last line printed is JSON. Nothing of this repository is imported.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def transformers(model: str, prompt: str, length: int) -> dict[str, Any]:
    """pipeline(), and the tokenizer alone."""
    from transformers import AutoTokenizer, pipeline

    writer = pipeline("text-generation", model=model)
    (made,) = writer(prompt, max_new_tokens=length, do_sample=False)
    tokenizer = AutoTokenizer.from_pretrained(model)
    return {"text": made["generated_text"], "ids": tokenizer(prompt).input_ids, "chat": tokenizer.chat_template}


def lm_eval(model: str, prompt: str, length: int) -> dict[str, Any]:
    """The command, on a task of our own: the bits per byte of one text."""
    here = Path("lm-eval-task")
    here.mkdir(exist_ok=True)
    (here / "text.jsonl").write_text(json.dumps({"text": prompt}) + "\n")
    (here / "text.yaml").write_text(
        "task: text\ndataset_path: json\noutput_type: loglikelihood_rolling\ntest_split: test\n"
        f"dataset_kwargs:\n  data_files:\n    test: {(here / 'text.jsonl').resolve()}\n"
        'doc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list:\n  - metric: bits_per_byte\n'
    )
    command = [str(Path(sys.executable).with_name("lm_eval")), "--model", "hf", "--tasks", "text"]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--include_path", str(here)]
    subprocess.run([*command, "--device", "cpu", "--output_path", "out"], check=True)
    (results,) = Path("out").rglob("results_*.json")
    return {"bits_per_byte": json.loads(results.read_text())["results"]["text"]["bits_per_byte,none"]}


def peft(model: str, prompt: str, length: int) -> dict[str, Any]:
    """A LoRA adapter: attached, trained for a few steps, saved, attached again, merged and saved as a whole model."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, base = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    plain = base(ids).logits.detach()
    torch.manual_seed(0)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    unchanged = float((adapted(ids).logits - plain).abs().max())
    optimizer = torch.optim.AdamW([weight for weight in adapted.parameters() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(length):
        optimizer.zero_grad()
        loss = adapted(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    trained = adapted(ids).logits.detach()
    adapted.save_pretrained("adapter")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), "adapter")
    kept = float((again(ids).logits - trained).abs().max())
    again.merge_and_unload().save_pretrained("merged")
    tokenizer.save_pretrained("merged")
    return {"unchanged": unchanged, "kept": kept, "losses": losses, "logits": trained[0].tolist()}


def ctranslate2(model: str, prompt: str, length: int) -> dict[str, Any]:
    """Its converter's command, and greedy text from what that wrote."""
    import ctranslate2
    from transformers import AutoTokenizer

    converter = str(Path(sys.executable).with_name("ct2-transformers-converter"))
    subprocess.run([converter, "--model", model, "--output_dir", "converted", "--force"], check=True)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)
    generator = ctranslate2.Generator("converted", compute_type="float32")
    (made,) = generator.generate_batch([tokens], max_length=length, sampling_topk=1, include_prompt_in_result=False)
    return {"made": made.sequences_ids[0]}


def mlx_lm(model: str, prompt: str, length: int) -> dict[str, Any]:
    """Greedy text of mlx-lm's own model."""
    import mlx.core as mx
    from mlx_lm import load, stream_generate

    mx.set_default_device(mx.cpu)
    loaded, tokenizer = load(model)[:2]
    made = stream_generate(loaded, tokenizer, tokenizer.encode(prompt), max_tokens=length)
    return {"made": [each.token for each in made]}


PROGRAMS = {
    "transformers": transformers,
    "lm-eval": lm_eval,
    "peft": peft,
    "ctranslate2": ctranslate2,
    "mlx-lm": mlx_lm,
}

if __name__ == "__main__":
    client, path, text, count = sys.argv[1:]
    print(json.dumps(PROGRAMS[client](path, text, int(count))))
