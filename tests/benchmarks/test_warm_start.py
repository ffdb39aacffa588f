"""The benchmark of warm starts: its text, its models, and how it goes on after an interruption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.warm_start import papers, report, runs, setups
from tests.factories import make

FIXTURES = Path(__file__).parents[2] / "fixtures"
SENTENCE = "Existing methods use the words of a sentence but ignore their order."


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Papers in the layout of aclsum: 40 of three sentences, one of them not plain text."""
    place = tmp_path_factory.mktemp("dataset")
    (place / "paper_jsons").mkdir()
    lines = []
    for number in range(40):
        body = f"We study number {number} of the papers here. Let x = {number} + y hold for all z."
        paper = {
            "abstract": f"{SENTENCE[:-1]} {number}.",
            "pdf_parse": {"body_text": [{"text": body}]},
        }
        (place / "paper_jsons" / f"P{number}.json").write_text(json.dumps(paper))
        summary = dict.fromkeys(("challenge", "approach", "outcome"), f"It is {number}.")
        sentences = {"abstract": ["One .", "Two ."]}
        record = {"id": f"P{number}", "title": f"On {number}", "summary": summary}
        lines.append(json.dumps({**record, "sentences": sentences}))
    (place / "train.jsonl").write_text("\n".join(lines))
    return place


def test_sentences_are_plain_text_and_papers_are_on_one_side_only(text: Path) -> None:
    task = papers.restore(text)
    right = {output for _, output in (*task.train, *task.held_out)}
    assert len(right) == 80
    assert not any("=" in output for output in right)
    held_out = {number for number in range(40) if papers.is_held_out(f"P{number}")}
    assert 0 < len(held_out) < 20
    assert {int(output.rstrip(".").split()[-1]) for _, output in task.held_out
            if output.startswith("Existing")} == held_out  # fmt: skip


def test_a_corrupt_sentence_keeps_some_words_near_their_places() -> None:
    corrupt = papers.corrupt(SENTENCE).split()
    assert corrupt == papers.corrupt(SENTENCE).split()
    words = SENTENCE.split()
    assert len(words) // 2 < len(corrupt) <= len(words)
    assert corrupt != words and set(corrupt) <= set(words)
    kept = [word for word in words if word in corrupt]
    assert all(abs(kept.index(word) - place) < papers.WINDOW for place, word in enumerate(corrupt))


def test_summaries_are_asked_for_by_the_first_word(text: Path) -> None:
    task = papers.summarize(text)
    inputs = [source for source, _ in (*task.train, *task.held_out)]
    assert len(inputs) == 160
    assert {source.split(":")[0] for source in inputs} == {
        "title",
        "challenge",
        "approach",
        "outcome",
    }
    assert all(source.endswith(": One . Two .") for source in inputs)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bert")
    make(directory, "bert", "BertModel", num_hidden_layers=setups.LAYERS)
    return directory


@pytest.mark.parametrize("name", setups.SETUPS)
def test_every_setup_can_be_composed(name: str, bert: Path, tmp_path: Path) -> None:
    setup = setups.SETUPS[name]
    setup.compose(bert, tmp_path / "out", 3)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["encoder"]["num_hidden_layers"] == setups.LAYERS
    assert config["decoder"]["num_hidden_layers"] == setup.decoder_layers


def test_a_part_of_the_vocabulary_gives_the_same_tokens_and_embeddings(tmp_path: Path) -> None:
    vocabulary = pytest.importorskip("benchmarks.warm_start.vocabulary")
    source, texts = tmp_path / "bert", ("the words of a sentence", "their order")
    shutil.copytree(FIXTURES / "bert-tiny", source)
    vocabulary.trim(source, tmp_path / "trimmed", texts)
    tokens, rows = [], []
    for directory in (source, tmp_path / "trimmed"):
        tokenizer = vocabulary.Tokenizer.from_file(str(directory / "tokenizer.json"))
        encoded = [tokenizer.encode(text) for text in texts]
        tokens.append([each.tokens for each in encoded])
        embeddings = vocabulary.load_file(directory / "model.safetensors")[vocabulary.EMBEDDINGS]
        rows.append([embeddings[each.ids].tolist() for each in encoded])
        size = json.loads((directory / "config.json").read_text())["vocab_size"]
        assert len(embeddings) == size == tokenizer.get_vocab_size()
    assert tokens[0] == tokens[1]
    assert rows[0] == rows[1]
    assert len(embeddings) < 135


@pytest.mark.peer
def test_a_permuted_model_computes_the_same_in_another_order(bert: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    permutation = pytest.importorskip("benchmarks.warm_start.permutation")
    permutation.permute(bert, tmp_path / "permuted", 1)
    ids = torch.tensor([[2, 7, 11, 5]])
    before, after = (
        transformers.BertModel.from_pretrained(each).eval()(ids).last_hidden_state[0].detach()
        for each in (bert, tmp_path / "permuted")
    )
    order = permutation.order(before.shape[-1], 1)
    assert torch.allclose(before[:, order], after, atol=1e-5)
    assert not torch.allclose(before, after, atol=1e-1)


def _result(loss: float, *, settings: dict[str, object] | None = None) -> str:
    measured = {
        "held_out": [(0, 9.0), (25, loss + 1), (50, loss)],
        "rouge_l": 0.5,
        "exact_match": 0.25,
    }
    return json.dumps({"settings": settings or {"steps": 50, "batch": 16}, **measured})


def test_the_table_has_spread_and_steps(tmp_path: Path) -> None:
    for name, losses in {
        "rnd2rnd": (6.0, 6.2),
        "bert2bert": (5.0, 5.2),
        "bertshare": (7, 7),
    }.items():
        for seed, loss in enumerate(losses):
            path = report.path_of(tmp_path, "restore", name, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_result(loss))
    table = report.Report(report.collect(tmp_path)).table()
    assert "| rnd2rnd | 2 | 6.100 ± 0.141 | 50.0% ± 0.0% | 50 |" in table
    assert "| bert2bert | 2 | 5.100 ± 0.141 | 50.0% ± 0.0% | 25 |" in table
    assert "| bertshare | 2 | 7.000 ± 0.000 | 50.0% ± 0.0% | not reached |" in table
    assert "50 steps of 16 pairs" in table


def test_finished_runs_are_kept_unless_their_settings_change(tmp_path: Path) -> None:
    planned = list(runs.planned(runs.BUDGETS, seeds=2))
    assert len({run.result(tmp_path) for run in planned}) == len(planned)
    assert [run.seed for run in planned[:10]] == [0] * 5 + [1] * 5
    first, second = planned[:2]
    for run, settings in ((first, first.settings), (second, {**second.settings, "rate": 1})):
        run.result(tmp_path).parent.mkdir(parents=True)
        run.result(tmp_path).write_text(_result(5.0, settings=settings))
    assert first.is_finished(tmp_path)
    assert not second.is_finished(tmp_path)
    assert not planned[2].is_finished(tmp_path)


def test_the_documentation_shows_the_results() -> None:
    results = report.Report(json.loads(report.RESULTS.read_text()))
    assert results.table() in report.PAGE.read_text()
    rows = set(results.rows("restore"))
    shown = [line for line in report.README.read_text().splitlines() if line in rows]
    assert [line.split("|")[1].strip() for line in shown] == [
        *setups.PRESETS,
        "bert2bert, copy-self-attention",
    ]
    assert report.PAGE.with_suffix(".svg").read_text().startswith("<?xml")
