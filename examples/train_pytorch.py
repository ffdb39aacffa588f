"""Fine-tune a composed model on a toy task and let it generate: ``python train_pytorch.py DIR``.

DIR is what ``converter compose fixtures/bert-tiny fixtures/gpt2-tiny DIR`` wrote. Needs torch and
transformers, 4 or 5. It takes a minute on one CPU core; real training differs only in
data and duration.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import toy
from transformers import EncoderDecoderModel


def train(
    directory: Path, steps: int = 400, batch: int = 16, words: int = 3
) -> tuple[list[float], float]:
    """Train, and return the loss of every step and the accuracy on new texts."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a model gains nothing from more
    model = EncoderDecoderModel.from_pretrained(directory)
    reader, writer = toy.tokenizers(directory)
    end = model.config.eos_token_id
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    losses = []
    model.train()
    for step in range(steps):
        inputs, outputs = toy.pairs(batch, step, words)
        encoded = reader(inputs, padding=True, return_tensors="pt")
        labels = torch.from_numpy(toy.labels(writer, outputs, end))
        loss = model(
            input_ids=encoded.input_ids,
            attention_mask=encoded.attention_mask,
            labels=labels,
            # Without it, transformers masks every pad token. GPT-2 has no pad token and is padded
            # with its start token, which generate() does not mask: nothing would be learned.
            decoder_attention_mask=torch.ones_like(labels),
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:4d}  loss {losses[-1]:.3f}", flush=True)
    return losses, accuracy(model, reader, writer, words)


@torch.no_grad()
def accuracy(
    model: EncoderDecoderModel, reader: Any, writer: Any, words: int, count: int = 64
) -> float:
    """Return the share of texts of another seed that ``generate()`` reverses correctly."""
    model.eval()
    inputs, outputs = toy.pairs(count, 10**6, words)
    encoded = reader(inputs, padding=True, return_tensors="pt")
    ids = model.generate(
        encoded.input_ids, attention_mask=encoded.attention_mask, max_new_tokens=16
    )
    generated = [text.strip() for text in writer.batch_decode(ids, skip_special_tokens=True)]
    for text, right, own in list(zip(inputs, outputs, generated, strict=True))[:3]:
        print(f"{text!r} → {own!r}" + ("" if own == right else f", should be {right!r}"))
    return float(sum(own == right for own, right in zip(generated, outputs, strict=True)) / count)


if __name__ == "__main__":
    _, share = train(Path(sys.argv[1]))
    print(f"{share:.0%} of new texts are correct")
