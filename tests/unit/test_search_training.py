"""Recorded searches: read with the clicks, inputs of training, and never a target of evaluation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")

import torch
from click.testing import CliRunner

from engine.arrays import FIRST_SEARCH, NO_ACTION, NO_ITEM, Windows
from engine.catalogue import searches
from engine.catalogue.content import Item, features
from engine.catalogue.ids import Catalogue
from engine.contract import ContentSizes
from engine.errors import DataError
from engine.interactions.layout import Layout, Source
from engine.releases import bundles, serving
from engine.releases.bundles import Holdout
from engine.settings.sections import IndexSettings, Settings
from models.cli.train import train as train_verb
from models.data import dataset, sequences, splits
from models.data import histories as sorting
from models.data.dataset import Interactions
from models.data.histories import Histories
from models.data.numbering import NumberedInteractions
from models.data.sequences import NO_TARGET
from models.evaluation import queries
from models.evaluation.queries import EvalData
from models.network.item_vectors import Content, ItemVectors
from models.settings import EncoderSettings, TrainSettings
from models.training import training_data
from models.training.fit import TrainingResult, train

RED, BLUE = FIRST_SEARCH, FIRST_SEARCH + 1
ROWS = [
    "ann,x,10,view,",
    'ann,,20,,"Red  shoes!"',
    "ann,y,30,buy,red shoes",  # a row with an item is a click, also with the words of a search
    "bob,,40,search,blue",
    "bob,x,50,view,",
    "bob,,60,search,RED SHOES",
]
SIZES = EncoderSettings(dimensions=8, interests=2, heads=2, hidden=8, window_length=6, id_dropout=0.3)
ITEMS = {item: Item(id=item, title=title) for item, title in (("x", "red boots"), ("y", "blue shoes"), ("z", "shoes"))}


def written(folder: Path, rows: list[str], header: str = "user,item,ts,event,query") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "interactions.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


@pytest.fixture
def read(tmp_path: Path) -> Interactions:
    return dataset.read(written(tmp_path, ROWS))


def test_rows_without_an_item_are_searches(read: Interactions) -> None:
    assert read.item_ids == ["x", "y"]
    assert read.search_ids == [searches.id_of("red shoes"), searches.id_of("blue")]
    assert read.items.tolist() == [0, RED, 1, BLUE, 0, RED]
    assert read.without_searches().items.tolist() == [0, 1, 0]
    assert read.without_searches().search_ids == []


def test_the_column_of_words_can_be_named(tmp_path: Path) -> None:
    folder = written(tmp_path, ["ann,x,10,", "bob,,20,blue", "ann,y,30,"], "user,item,ts,typed")
    interactions = dataset.read(Source(str(folder), Layout(search="typed")))
    assert interactions.items.tolist() == [0, RED, 1]
    with pytest.raises(DataError, match="row 2: column item holds nothing; mend"):
        dataset.read(folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("bob,,40,search,", "row 2: column item holds nothing; nor has column query the words of a search"),
        ("bob,,40,search,!?", "row 2: column item holds nothing; nor has column query the words of a search"),
        ("bob,\x1fblue,40,view,", r"row 2: column item holds an id that begins with '\\x1f', as searches do"),
        (",,40,search,blue", "row 2: column user holds nothing"),
    ],
)
def test_a_row_that_is_neither_click_nor_search_is_refused(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataset.read(written(tmp_path, ["ann,,10,search,blue", row, "ann,x,50,view,"]))


def test_training_data_is_the_same_from_disk_and_from_memory(read: Interactions, tmp_path: Path) -> None:
    lines = sorting.sort(NumberedInteractions(tmp_path), tmp_path / "sorted")
    settings = TrainSettings(holdout="none")
    assert lines.fingerprint() == read.fingerprint()
    prepared = training_data.prepare(lines, settings, tmp_path / "data", searches=True)
    training_data.save(prepared, tmp_path / "data", None)
    in_memory = training_data.prepare(read.histories(), settings, searches=True)
    for data in (training_data.load(tmp_path / "data"), in_memory):
        names = list(settings.clicks.actions)
        assert data.ids == ["x", "y"]
        assert data.counts.tolist() == [2, 1]
        assert data.searches == [searches.id_of("red shoes"), searches.id_of("blue")]
        assert data.search_counts.tolist() == [1, 1]
        assert data.histories.items.tolist() == [0, RED, 1, BLUE, 0]  # the last search led to no click
        assert [names[code - 1] for code in data.histories.actions] == ["view", "search", "buy", "search", "view"]


def test_the_newest_click_is_left_out_and_the_searches_that_led_to_no_other(read: Interactions) -> None:
    """ann: x, red, [y]; bob: blue, [x, red]."""
    assert np.flatnonzero(splits.held_out(read, Holdout(last_event=True))).tolist() == [2, 4, 5]
    data = training_data.prepare(read.histories(), TrainSettings(holdout="last"), searches=True)
    assert data.histories.items.tolist() == [0]
    assert data.histories.starts.tolist() == [0, 1]
    assert (data.ids, data.searches, data.search_counts.tolist()) == (["x"], [], [])


@pytest.mark.parametrize("private", [False, True])
def test_searches_are_left_out_of_private_training_and_by_default(read: Interactions, private: bool) -> None:
    settings = TrainSettings(holdout="none", private_epsilon=1.0 if private else None)
    data = training_data.prepare(read.histories(), settings, searches=private)
    plain = training_data.prepare(read.without_searches().histories(), settings)
    assert data.histories.items.tolist() == plain.histories.items.tolist() == [0, 1, 0]
    assert data.searches == []


def histories(*users: list[int]) -> Histories:
    items = np.concatenate([np.array(user, np.int32) for user in users])
    return Histories(
        items=items,
        times_ms=1000 * np.arange(len(items)),
        actions=np.ones(len(items), np.uint8),
        starts=np.cumsum([0, *map(len, users)]),
    )


def test_a_search_is_an_input_and_no_target() -> None:
    """5 "red" 6 "red" 7: the click before a search has no target, a search has the click that it led to."""
    history = histories([5, RED, 6, RED, 7])
    cut = sequences.cut(history.lengths(), history.starts[:-1], 20)
    batch = sequences.gather(history, cut, np.array([0]))
    assert batch.items.tolist() == [[5, RED, 6, RED]]
    assert batch.targets.tolist() == [[NO_TARGET, 6, NO_TARGET, 7]]


def test_the_vector_of_a_search_is_the_content_of_its_words() -> None:
    sizes = ContentSizes(buckets=1 << 18)
    words = [searches.as_item(searches.id_of(query)) for query in ("red boots", "xyz")]
    content = Content(features([*ITEMS.values(), *words], sizes), sizes, 4, np.array([1, 1]))
    item_vectors = ItemVectors(3, 4, content, id_dropout=0.9)
    torch.nn.init.normal_(content.table)
    rows = torch.tensor([[0, FIRST_SEARCH], [FIRST_SEARCH + 1, 2]])
    vectors = item_vectors.eval()(rows)
    torch.testing.assert_close(vectors[0, 1], vectors[0, 0] - item_vectors.ids.weight[0])  # the title of x
    torch.testing.assert_close(item_vectors.train()(rows)[0, 1], vectors[0, 1])
    assert not vectors[1, 0].any()  # one search, made once
    assert item_vectors.table().shape == (3, 4)


def test_features_of_several_searches_are_trained() -> None:
    """Each of these has one word, and its grams; x and y share nothing."""
    sizes = ContentSizes(buckets=1 << 18)
    bags = features([Item(id="x", title="ab"), Item(id="y", title="cd"), Item(id="q", title="ef")], sizes)
    word, grams = 1, 3  # "ef"; " ef", " ef ", "ef "
    assert len(Content(bags, sizes, 4, np.array([1])).trained_buckets) == 0
    assert len(Content(bags, sizes, 4, np.array([2])).trained_buckets) == word + grams
    assert len(Content(bags, sizes, 4).trained_buckets) == 0


def clicks(folder: Path, *, words: str = "", queries: bool = False) -> Interactions:
    """Users who click x, y and z in turn: each click has `words`, and a search follows it if there are `queries`."""
    rows = []
    for user in range(12):
        for step in range(6):
            rows.append(f"u{user},{'xyz'[(user + step) % 3]},{20 * step + user},view,{words}")
            rows += [f"u{user},,{20 * step + user + 1},search,query {step}"] if queries else []
    return dataset.read(written(folder, rows))


def trained(data: Interactions, items: dict[str, Item], **changes: object) -> TrainingResult:
    torch.set_num_threads(1)
    settings = TrainSettings(encoder=SIZES, holdout="none", epochs=2, batch_sequences=4).model_copy(update=changes)
    return train(data, settings, items=items)


def assert_same(first: TrainingResult, second: TrainingResult) -> None:
    weights = second.encoder.state_dict()
    for name, weight in first.encoder.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    curves = [[(each.ndcg, each.loss) for each in result.validations] for result in (first, second)]
    assert curves[0] == curves[1]


def test_without_searches_the_weights_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    """Words of a click are not read as a search, and without item content searches are left out."""
    plain, worded, searched = (
        clicks(tmp_path / "plain"),
        clicks(tmp_path / "worded", words="red"),
        clicks(tmp_path / "searched", queries=True),
    )
    assert plain.fingerprint() == worded.fingerprint() != searched.fingerprint()
    assert_same(trained(plain, ITEMS), trained(worded, ITEMS))
    assert_same(trained(plain, {}), trained(searched, {}))


@pytest.mark.parametrize("sampled", [False, True], ids=["full softmax", "sampled"])
def test_training_with_searches_is_repeatable(tmp_path: Path, sampled: bool) -> None:
    data = clicks(tmp_path, queries=True)
    changes = {"full_softmax_up_to": 0, "negatives": 4} if sampled else {}
    first = trained(data, ITEMS, **changes)
    assert (first.ids, first.encoder.items.num_searches) == (["x", "y", "z"], 5)  # the sixth led to no click
    assert first.popularity.tolist() == [24.0, 24.0, 24.0]
    assert_same(first, trained(data, ITEMS, **changes))


def test_the_verb_trains_on_searches(tmp_path: Path) -> None:
    clicks(tmp_path / "data", queries=True)
    (tmp_path / "data" / "items.csv").write_text("item,title\nx,red boots\ny,blue shoes\nz,shoes\n")
    small = ["--dimensions", "8", "--interests", "1", "--heads", "1", "--window-length", "6", "--epochs", "1"]
    paths = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--search-column", "query"]
    result = CliRunner().invoke(train_verb, [*paths, *small], catch_exceptions=False)
    assert result.exit_code == 0
    served, catalogue = bundles.read(Path(result.stdout.strip())), Catalogue()
    assert sorted(served.ids) == ["x", "y", "z"]
    rows = serving.warm(served, catalogue, IndexSettings(), threads=1).rows(
        catalogue.numbers([searches.id_of("my query"), searches.id_of("unheard-of")])
    )
    assert (rows == NO_ITEM).tolist() == [False, True]  # no title has these words, but searches do


def test_evaluation_asks_for_clicks_from_windows_with_searches(read: Interactions) -> None:
    eval_data = EvalData(read, Settings())
    ((windows, targets),) = queries.last_event_queries(eval_data).batches()
    assert targets.tolist() == [2, 4]
    assert windows.items[:, -2:].tolist() == [[0, RED], [NO_ITEM, BLUE]]
    assert eval_data.catalogue.ids(windows.items[:, -1].tolist()) == read.search_ids
    since = queries.queries_since(eval_data, 20_000)
    assert since.targets.tolist() == [2, 4]
    assert [event for _, batch in since.batches() for event in batch.tolist()] == [2, 4]


def test_baselines_see_clicks_alone() -> None:
    windows = Windows(
        items=np.array([[0, RED, 1], [NO_ITEM, BLUE, RED]], np.int32),
        times_ms=np.array([[10, 20, 30], [0, 20, 30]]),
        actions=np.array([[1, 2, 1], [0, 2, 2]], np.uint8),
    )
    clicks = queries.without_searches(windows)
    assert clicks.items.tolist() == [[NO_ITEM, 0, 1], [NO_ITEM, NO_ITEM, NO_ITEM]]
    assert clicks.times_ms[0, 1:].tolist() == [10, 30]
    assert clicks.actions.tolist() == [[NO_ACTION, 1, 1], [NO_ACTION] * 3]
    plain = replace(windows, items=np.zeros((2, 3), np.int32))
    assert queries.without_searches(plain) is plain
