"""Fine-tune and save a composed model in PyTorch: ``train_pytorch.py MODEL OUTPUT``.

MODEL is what ``converter compose fixtures/bert-tiny fixtures/gpt2-tiny MODEL`` wrote. Needs torch
and transformers, 4 or 5. It takes ten seconds on one CPU core; real training differs only in data
and duration.
"""

from __future__ import annotations

from pathlib import Path

import torch
import toy
from transformers import EncoderDecoderModel


def train(
    directory: Path, output: Path, steps: int = 400, rate: float = 6e-3
) -> tuple[list[float], float]:
    """Train and save; return the loss of every step and the accuracy on new texts."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a model gains nothing from more
    model = EncoderDecoderModel.from_pretrained(directory)
    encoder, decoder = toy.tokenizers(directory)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    losses = []
    model.train()
    for step in range(steps):
        batch = toy.batch(encoder, decoder, model.config, 16, step)
        loss = model(**{name: torch.from_numpy(value) for name, value in batch.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:3d}  loss {losses[-1]:.3f}", flush=True)
    model.eval()
    toy.save(model, encoder, decoder, directory, output)
    inputs, outputs = toy.texts(64, seed=10**6)
    encoded = encoder(inputs, padding=True, return_tensors="pt")
    ids = model.generate(
        encoded.input_ids, attention_mask=encoded.attention_mask, max_new_tokens=28
    )
    generated = decoder.batch_decode(ids, skip_special_tokens=True)
    return losses, toy.accuracy(generated, inputs, outputs)


if __name__ == "__main__":
    given = toy.arguments(steps=400)
    _, share = train(given.model, given.output, given.steps)
    print(f"{share:.0%} of 64 new texts are summarized correctly")
