"""Fine-tune a composed model on a toy task and let it generate: ``python train_pytorch.py DIR``.

DIR is what ``converter compose fixtures/bert-tiny fixtures/gpt2-tiny DIR`` wrote. Needs torch and
transformers, 4 or 5. A minute on one processor; the real thing differs in the data and in
patience only.
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
    """Train, and return the loss of every step and the share of new texts that come out right."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a model only waits for more
    model = EncoderDecoderModel.from_pretrained(directory)
    reader, writer = toy.tokenizers(directory)
    end = model.config.eos_token_id
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, steps)
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
            # Left out, transformers hides every pad token from the decoder. GPT-2 has none and pads
            # with the token that it starts with, which generate() then shows: nothing is learned.
            decoder_attention_mask=torch.ones_like(labels),
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:4d}  loss {losses[-1]:.3f}", flush=True)
    return losses, accuracy(model, reader, writer, words)


@torch.no_grad()
def accuracy(
    model: EncoderDecoderModel, reader: Any, writer: Any, words: int, count: int = 64
) -> float:
    """The share of texts, of another seed, that ``generate()`` writes as they should be."""
    model.eval()
    inputs, outputs = toy.pairs(count, 10**6, words)
    encoded = reader(inputs, padding=True, return_tensors="pt")
    ids = model.generate(
        encoded.input_ids, attention_mask=encoded.attention_mask, max_new_tokens=16
    )
    written = [text.strip() for text in writer.batch_decode(ids, skip_special_tokens=True)]
    for text, right, own in list(zip(inputs, outputs, written, strict=True))[:3]:
        print(f"{text!r} → {own!r}" + ("" if own == right else f", should be {right!r}"))
    return float(sum(own == right for own, right in zip(written, outputs, strict=True)) / count)


if __name__ == "__main__":
    _, share = train(Path(sys.argv[1]))
    print(f"{share:.0%} of new texts are right")
