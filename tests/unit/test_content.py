"""Features of content: the same everywhere and in any order, for any text; and items files, good and bad."""

import math
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from engine.catalogue.content import Item, ItemFeatures, features, words
from engine.contract import ContentSizes
from engine.errors import DataError
from engine.settings.sections import ItemFields, ItemSettings
from models.data import item_content

SIZES = ContentSizes(buckets=1 << 18)


def of(item: Item) -> list[tuple[int, float]]:
    item_features = features([item], SIZES)
    return list(zip(item_features.buckets.tolist(), item_features.weights.tolist(), strict=True))


def test_features_are_the_same_on_every_machine() -> None:
    """Golden values: a release that was trained elsewhere serves these. Whoever changes them raises CONTENT_RECIPE."""
    assert of(Item(id="x", bags={"genres": ["Drama"]})) == [(117504, -1.0)]
    buckets, weights = zip(*of(Item(id="x", title="Ab")), strict=True)  # the word, and " ab", " ab ", "ab "
    assert buckets == (155753, 243623, 219202, 25464)
    assert weights == pytest.approx((-1.0, 1 / math.sqrt(3), 1 / math.sqrt(3), -1 / math.sqrt(3)))
    assert of(Item(id="x", price=2.5)) == [(9273, -1.0)]  # round(2 * log2(2.5)) = 3


def test_each_bag_weighs_as_much_as_one_feature() -> None:
    """The squares of the weights of a bag sum to 1: two genres weigh 1/√2 each."""
    weights = [abs(weight) for _, weight in of(Item(id="x", bags={"genres": ["Drama", "Horror"]}))]
    assert weights == pytest.approx([1 / math.sqrt(2)] * 2)


def test_the_field_is_part_of_the_feature() -> None:
    genre, tag = of(Item(id="x", bags={"genres": ["western"]})), of(Item(id="x", bags={"tags": ["western"]}))
    assert genre[0][0] != tag[0][0]


def test_case_width_and_composition_do_not_matter() -> None:
    assert words("STRASSE Café") == words("straße Cafe\N{COMBINING ACUTE ACCENT}") == ["strasse", "café"]
    assert words("\N{FULLWIDTH LATIN CAPITAL LETTER A}12") == ["a12"]


def test_words_of_scripts_with_marks_stay_whole() -> None:
    assert words("हिन्दी, ภาษาไทย") == ["हिन्दी", "ภาษาไทย"]


def test_titles_without_spaces_share_grams() -> None:
    """Two Japanese titles that begin alike have no word in common, but six grams."""
    one, other = of(Item(id="x", title="銀河鉄道の夜")), of(Item(id="y", title="銀河鉄道999"))
    shared = {bucket for bucket, _ in one} & {bucket for bucket, _ in other}
    assert len(shared) == len({"銀河鉄", "河鉄道", "銀河鉄道", " 銀河", " 銀河鉄", " 銀河鉄道"})


def test_an_item_of_which_nothing_is_known_has_no_features() -> None:
    assert of(Item(id="x", title=" -- ", bags={"tags": ["", "…"]}, price=0.0)) == []


@given(title=st.text(), values=st.lists(st.text()), price=st.none() | st.floats())
def test_any_text_has_features_in_range(title: str, values: list[str], price: float | None) -> None:
    item_features = features([Item(id="x", title=title, bags={"tags": values}, price=price)], SIZES)
    assert ((item_features.buckets >= 0) & (item_features.buckets < SIZES.buckets)).all()
    assert np.isfinite(item_features.weights).all()
    assert float((item_features.weights**2).sum()) <= 4.0 + 1e-3  # four bags: words, grams, tags, price


@given(values=st.lists(st.text(), max_size=6), seed=st.randoms())
def test_order_and_repeats_do_not_matter(values: list[str], seed: Random) -> None:
    shuffled = [*values, *values]
    seed.shuffle(shuffled)
    assert of(Item(id="x", bags={"tags": values})) == of(Item(id="x", bags={"tags": shuffled}))


@given(titles=st.lists(st.text(), min_size=1, max_size=5))
def test_padding_is_the_bags_one_below_the_other(titles: list[str]) -> None:
    item_features = features([Item(id=str(number), title=title) for number, title in enumerate(titles)], SIZES)
    buckets, weights = item_features.padded()
    for row, title in enumerate(titles):
        alone = features([Item(id="alone", title=title)], SIZES)
        count = len(alone.buckets)
        assert buckets[row, :count].tolist() == alone.buckets.tolist()
        assert weights[row, :count].tolist() == alone.weights.tolist()
        assert not weights[row, count:].any()


def test_vectors_are_scaled_to_length_one_and_may_be_missing() -> None:
    sizes = ContentSizes(buckets=4, dense=2)
    item_features = features([Item(id="a", vector=[3.0, 4.0]), Item(id="b"), Item(id="c", vector=[0.0, 0.0])], sizes)
    assert item_features.dense.ravel().tolist() == pytest.approx([0.6, 0.8, 0.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("vector", "said"), [([1.0], "has 1 numbers, expected 2"), ([1.0, math.nan], "not finite")], ids=["short", "nan"]
)
def test_a_bad_vector_is_named(vector: list[float], said: str) -> None:
    with pytest.raises(DataError, match=f"item 'b': .*{said}"):
        features([Item(id="a", vector=[1.0, 2.0]), Item(id="b", vector=vector)], ContentSizes(buckets=4, dense=2))


def no_features(item_features: ItemFeatures) -> bool:
    return not len(item_features.buckets)


def csv_folder(folder: Path, *lines: str) -> Path:
    (folder / "items.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_a_csv_file_is_read(tmp_path: Path) -> None:
    folder = csv_folder(
        tmp_path,
        "item,title,genres,price,vector,n_events",
        '1,"Smile, A (1997)",Comedy|Romance,2.5,0.5|1,20',
        "007,,,,,3",
    )
    items = item_content.read(folder, ItemSettings())
    assert list(items) == ["1", "007"]
    item = items["1"]
    assert (item.title, item.price, item.bags) == ("Smile, A (1997)", 2.5, {"genres": ["Comedy", "Romance"]})
    assert np.asarray(item.vector).tolist() == [0.5, 1.0]
    assert no_features(features([items["007"]], SIZES))
    assert item_content.sizes(items, 8) == ContentSizes(buckets=8, dense=2)


def test_a_parquet_file_is_read(tmp_path: Path) -> None:
    table = pa.table(
        {
            "item": pa.array([7, 8]),
            "title": pa.array(["one", None]),
            "tags": pa.array([["a", None, "b"], None]),
            "category": pa.array([12, 13]),
            "vector": pa.array([None, [1.0, 2.0]], pa.list_(pa.float32())),
        }
    )
    parquet.write_table(table, tmp_path / "items.parquet")
    items = item_content.read(tmp_path, ItemSettings())
    assert items["7"].bags == {"category": ["12"], "tags": ["a", "b"]}
    assert items["7"].vector is None
    assert items["8"].bags == {"category": ["13"]}
    assert np.asarray(items["8"].vector).tolist() == [1.0, 2.0]


def test_a_parquet_column_of_another_kind_ends_with_a_sentence(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"item": ["1"], "price": ["cheap"]}), tmp_path / "items.parquet")
    with pytest.raises(DataError, match=r"parquet, row 1, item '1': column price holds 'cheap'; expected a plain"):
        item_content.read(tmp_path, ItemSettings())
    parquet.write_table(pa.table({"item": ["1"], "title": [{"en": "x"}]}), tmp_path / "items.parquet")
    with pytest.raises(DataError, match=r"column title holds values of type struct<en: string>; expected text: cast"):
        item_content.read(tmp_path, ItemSettings())


def test_columns_of_other_names_are_mapped(tmp_path: Path) -> None:
    folder = csv_folder(tmp_path, "sku,attr_ids,median_price", "1,4 9,0.85")
    fields = ItemFields(item="sku", tags="attr_ids", price="median_price")
    items = item_content.read(folder, ItemSettings(fields=fields, separator=" "))
    assert (items["1"].bags, items["1"].price) == ({"tags": ["4", "9"]}, 0.85)


def test_no_file_and_no_content_are_no_items(tmp_path: Path) -> None:
    assert item_content.read(tmp_path, ItemSettings()) == {}
    assert item_content.read(csv_folder(tmp_path, "item,n_events", "1,2"), ItemSettings()) == {}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("id,title", "1,a"), r"no column 'item'; found id, title: name the one .* items\.fields\.item"),
        (("item,title", "1,a", "2,b", "1,c"), "item '1' is in it more than once"),
        (("item,title", "1,a", ",b"), "row 2 has no item id"),
        (
            ("item,price", "1,", "2,3", "i3,—"),
            "row 3, item 'i3': column price holds '—'; expected a plain number",
        ),
        (
            ("item,price", "1,NA", "i2,$3.00"),
            r"row 2, item 'i2': column price holds '\$3\.00'; expected a plain",
        ),
        (("item,vector", "1,1|2", "2,", "3,1|2|3"), "vector of item '3' has 3 numbers, that of item '1' has 2"),
        (("item,vector", "1,1|2", "2,1|nan"), "1 vectors hold numbers that are not finite, first that of item '2'"),
        (("item,vector", "1,1|2", "2,", "3,1|x"), "row 3, item '3': column vector holds 'x'; expected numbers: mend"),
    ],
    ids=["no item column", "duplicate", "empty id", "price", "currency", "lengths", "nan", "text"],
)
def test_a_bad_file_ends_with_a_sentence(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        item_content.read(csv_folder(tmp_path, *lines), ItemSettings())
