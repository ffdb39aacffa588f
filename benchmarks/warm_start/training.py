"""Training of one composed model on one task, in plain PyTorch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rouge_score.rouge_scorer import RougeScorer
from tokenizers import Tokenizer
from torch import Tensor
from transformers import EncoderDecoderModel

from benchmarks.warm_start.papers import Pair, Task
from benchmarks.warm_start.runs import Budget

START, END, PADDING = 101, 102, 0  # [CLS], [SEP] and [PAD] of BERT's vocabulary
IGNORED = -100
BUCKET = 50
"""Batches among which pairs are sorted by length."""


def train(directory: Path, task: Task, budget: Budget, seed: int) -> dict[str, Any]:
    """Train the model in a directory and return losses and scores, ready for JSON."""
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = EncoderDecoderModel.from_pretrained(directory).to(device)
    model.config.decoder_start_token_id, model.config.pad_token_id = START, PADDING
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=budget.rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, budget))
    encoded = Encoded(tokenizer, task, device)
    losses, held_out = [], []
    batches = _batches(task.train, budget.batch, seed)
    model.train()
    for step in range(budget.steps + 1):
        if step % budget.evaluate_every == 0 or step == budget.steps:
            held_out.append((step, evaluate(model, encoded, task.held_out[: budget.held_out])))
        if step == budget.steps:
            break
        loss = model(**encoded(next(batches))).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(round(loss.item(), 4))
    scores = score(model, encoded, task.held_out[: budget.generated])
    return {"train": losses, "held_out": held_out, **scores}


@dataclass(frozen=True)
class Encoded:
    """Batches of token ids; the decoder's input is made by the model from the labels."""

    tokenizer: Tokenizer
    task: Task
    device: str

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        inputs = self._ids([source for source, _ in pairs], self.task.input_tokens)
        outputs = self._ids([target for _, target in pairs], self.task.output_tokens, start=False)
        ids = _pad(inputs, PADDING).to(self.device)
        labels = _pad(outputs, IGNORED).to(self.device)
        return {"input_ids": ids, "attention_mask": (ids != PADDING).long(), "labels": labels}

    def _ids(self, texts: Sequence[str], most: int, *, start: bool = True) -> list[list[int]]:
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        bodies = (each.ids for each in self.tokenizer.encode_batch(texts, add_special_tokens=False))
        begin = [START] if start else []
        return [[*begin, *ids[: most - 1 - len(begin)], END] for ids in bodies]


@torch.no_grad()
def evaluate(model: EncoderDecoderModel, encoded: Encoded, pairs: Sequence[Pair]) -> float:
    """Return the mean loss per token of pairs."""
    model.eval()
    total, tokens = 0.0, 0
    for start in range(0, len(pairs), 32):
        batch = encoded(pairs[start : start + 32])
        count = int((batch["labels"] != IGNORED).sum())
        total += model(**batch).loss.item() * count
        tokens += count
    model.train()
    return round(total / tokens, 4)


@torch.no_grad()
def score(model: EncoderDecoderModel, encoded: Encoded, pairs: Sequence[Pair]) -> dict[str, float]:
    """Return exact match and mean ROUGE-L (F1) of greedily generated text."""
    model.eval()
    rouge = RougeScorer(["rougeL"])
    exact, similar = 0, 0.0
    for start in range(0, len(pairs), 32):
        part = pairs[start : start + 32]
        batch = encoded(part)
        ids = model.generate(
            batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_start_token_id=START,
            eos_token_id=END,
            pad_token_id=PADDING,
            max_new_tokens=encoded.task.output_tokens,
            num_beams=1,
            do_sample=False,
        )
        texts = encoded.tokenizer.decode_batch(ids.tolist())
        labels = batch["labels"].masked_fill(batch["labels"] == IGNORED, PADDING)
        for text, right in zip(texts, encoded.tokenizer.decode_batch(labels.tolist()), strict=True):
            exact += text == right
            similar += rouge.score(right, text)["rougeL"].fmeasure
    count = len(pairs)
    return {"exact_match": round(exact / count, 4), "rouge_l": round(similar / count, 4)}


def _rate(step: int, budget: Budget) -> float:
    """Return the share of the learning rate: a linear rise, then a linear fall to a tenth."""
    rise = (step + 1) / budget.warmup
    fall = 1 - 0.9 * (step - budget.warmup) / max(1, budget.steps - budget.warmup)
    return min(rise, fall, 1.0)


def _batches(pairs: Sequence[Pair], size: int, seed: int) -> Iterator[list[Pair]]:
    """Yield batches without end; each pair once before any comes again.

    Pairs of like lengths come together, which saves a third of the time.
    """
    chance = random.Random(seed)
    while True:
        order = list(pairs)
        chance.shuffle(order)
        batches = []
        for start in range(0, len(order), size * BUCKET):
            bucket = sorted(order[start : start + size * BUCKET], key=lambda pair: len(pair[1]))
            batches += [bucket[at : at + size] for at in range(0, len(bucket) - size + 1, size)]
        chance.shuffle(batches)
        yield from batches


def _pad(rows: list[list[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])
