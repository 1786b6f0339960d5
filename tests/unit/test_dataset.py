"""Reading recorded interactions: order, ids, times, and what is said about bad files."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from engine.errors import DataError
from engine.settings.sections import ClickSettings
from models.data import dataset
from models.data.action_names import warn_of_unnamed
from models.data.dataset import Interactions
from models.settings import TrainSettings
from models.training import training_data

HEADER = "user,item,ts,weight"


def folder_with(folder: Path, *lines: str) -> Path:
    with gzip.open(folder / "interactions.csv.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    return folder


def test_columns_in_order_of_time_and_ties_in_order_of_the_file(tmp_path: Path) -> None:
    found = dataset.read(folder_with(tmp_path, HEADER, "b,x,20.5,1", "a,y,10,5", "b,z,10,1", "a,x,10,1"))
    assert [found.user_ids[user] for user in found.users] == ["a", "b", "a", "b"]
    assert [found.item_ids[item] for item in found.items] == ["y", "z", "x", "x"]
    assert found.times_ms.tolist() == [10_000, 10_000, 10_000, 20_500]
    assert [str(column.dtype) for column in (found.users, found.items, found.times_ms)] == ["int32", "int32", "int64"]


def test_ids_stay_strings_and_times_keep_their_milliseconds(tmp_path: Path) -> None:
    found = dataset.read(folder_with(tmp_path, HEADER, "007,0001,1396314141.719,1", "8,1,1396314153.088,1"))
    assert found.user_ids == ["007", "8"]
    assert found.item_ids == ["0001", "1"]
    assert found.times_ms.tolist() == [1_396_314_141_719, 1_396_314_153_088]


def test_plain_csv_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("ts,item,user\n1,x,a\n2,y,b\n")
    assert len(dataset.read(tmp_path)) == 2


def learned_actions(data: Interactions, weights: dict[str, float], default: str) -> list[int]:
    clicks = ClickSettings(actions=weights, default_action=default)
    learned = training_data.prepare(data.histories(), TrainSettings(clicks=clicks, holdout="none"))
    return list(map(int, learned.histories.actions))


def test_weights_come_from_the_action_and_not_from_the_rating(tmp_path: Path) -> None:
    lines = ("a,x,1,9,buy", "a,y,2,9,view", "b,x,3,9,unheard-of")
    found = dataset.read(folder_with(tmp_path, HEADER + ",event", *lines))
    assert learned_actions(found, {"view": 1.0, "buy": 3.0}, "view") == [2, 1, 1]


def test_actions_without_a_weight_are_told_and_not_left_to_chance(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ("a,x,1,9,buy", "a,y,2,9,VIEW", "b,x,3,9,FOLLOW", "b,y,4,9,FOLLOW", "b,z,5,9,view")
    found = dataset.read(folder_with(tmp_path, HEADER + ",event", *lines))
    clicks = ClickSettings(actions={"view": 1.0, "buy": 3.0})
    warn_of_unnamed(found.action_names, [found.actions[:2], found.actions[2:]], clicks)
    assert caplog.messages == [
        "clicks.actions does not name 'FOLLOW' (2 events), 'VIEW' (1 events, not the same as 'view'): they count like"
        " 'view' (1); give each a weight there, in a file for --config"
    ]


def test_where_every_action_is_named_or_there_is_none_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for header, lines in ((HEADER + ",event", ("a,x,1,9,buy", "b,y,2,9,view")), (HEADER, ("a,x,1,9", "b,y,2,9"))):
        found = dataset.read(folder_with(tmp_path, header, *lines))
        warn_of_unnamed(found.action_names, [found.actions], ClickSettings())
    assert caplog.messages == []


def test_data_without_actions_has_the_default_one(tmp_path: Path) -> None:
    found = dataset.read(folder_with(tmp_path, HEADER, "a,x,1,9", "b,y,2,9"))
    assert learned_actions(found, {"buy": 2.0, "view": 1.0}, "view") == [2, 2]


def test_by_user_keeps_time_order_within_a_user(tmp_path: Path) -> None:
    found = dataset.read(folder_with(tmp_path, HEADER, "b,x,1,1", "a,y,2,1", "b,z,3,1", "a,x,4,1"))
    order = found.by_user()
    assert [found.user_ids[user] for user in found.users[order]] == ["b", "b", "a", "a"]
    assert found.times_ms[order].tolist() == [1000, 3000, 2000, 4000]


def test_fingerprint_sees_every_column(tmp_path: Path) -> None:
    rows = [
        ("a,x,1,1", "b,y,2,1"),
        ("a,x,1,1", "b,y,3,1"),
        ("a,x,1,1", "b,z,2,1"),
        ("a,x,1,1", "c,y,2,1"),
        ("a,x,1,1", "b,y,2,1", "b,y,2,1"),
    ]
    prints = []
    for number, lines in enumerate(rows):
        folder = tmp_path / str(number)
        folder.mkdir()
        prints.append(dataset.read(folder_with(folder, HEADER, *lines)).fingerprint())
    assert len(set(prints)) == len(rows)
    assert dataset.read(tmp_path / "0").fingerprint() == prints[0]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((HEADER,), "holds no events"),
        (("user,item,weight", "a,x,1"), "no column ts; found user, item, weight; name the ones"),
        ((HEADER, "a,x,1,1", "a,y,2,1"), "has 1 user, 'a', in all of its 2 events"),
        ((HEADER, "a,x,1,1", "b,x,2,1"), "has 1 item, 'x', in all of its 2 events"),
        ((HEADER, "a,x,1,1", "b,y,nan,1"), "row 2: column ts holds 'nan'; expected Unix seconds"),
        ((HEADER, "a,x,1,1", ",y,2,1"), "row 2: column user holds nothing"),
        ((HEADER, "a,x,1,1", "b,y,inf,1"), "row 2: column ts holds 'inf'"),
        ((HEADER, "a,x,yesterday,1", "b,y,2,1"), "row 1: column ts holds 'yesterday'"),
        ((HEADER, "a,x,1,1", "b,y"), "row 2: 2 of 4 values in 'b,y'; mend the row"),
        (("",), "cannot be read"),
    ],
    ids=[
        "header only",
        "no time",
        "one user",
        "one item",
        "NaN",
        "no user",
        "infinite",
        "text",
        "short row",
        "nothing",
    ],
)
def test_bad_data_ends_with_a_sentence(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        dataset.read(folder_with(tmp_path, *lines))


def test_a_folder_without_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no interactions\.csv\.gz"):
        dataset.read(tmp_path)


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    folder_with(tmp_path, HEADER, *(f"u{row},i{row},{row},1" for row in range(1000)))
    path = tmp_path / "interactions.csv.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match="cannot be read"):
        dataset.read(tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "events", "users", "items"),
    [("ml-100k", 100_000, 943, 1_682), ("taobao-84k", 84_440, 815, 55_344), ("yoochoose-100k", 83_846, 21_210, 2_933)],
)
def test_recorded_sets_have_the_size_they_are_known_for(
    data_folder: Path, name: str, events: int, users: int, items: int
) -> None:
    found = dataset.read(data_folder / name)
    assert (len(found), len(found.user_ids), len(found.item_ids)) == (events, users, items)
    assert (np.diff(found.times_ms) >= 0).all()
