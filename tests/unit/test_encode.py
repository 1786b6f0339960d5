"""Messages of lists: golden bytes, and decoding."""

import json
from typing import Any

import numpy as np

from engine.arrays import FIRST_SEARCH, NO_ITEM
from engine.catalogue import searches
from engine.messages.recommendation import Reason, decode_recommendation
from engine.ranking.encode import ListHeads, encode_recommendations
from engine.ranking.lists import FROM_INTEREST, FROM_NEIGHBOUR, FROM_POPULAR, Lists


def lists() -> Lists:
    return Lists(
        items=np.array([[2, 1, 0], [1, NO_ITEM, NO_ITEM]], np.int32),
        scores=np.array([[1.25, 0.5, 0.0], [0.0, 0.0, 0.0]], np.float32),
        sources=np.array([[FROM_INTEREST, FROM_NEIGHBOUR, FROM_POPULAR], [FROM_POPULAR] * 3], np.uint8),
        interests=np.array([[1, 0, -1], [-1, -1, -1]], np.int32),
        origins=np.array([[NO_ITEM, 2, NO_ITEM], [NO_ITEM] * 3], np.int32),
        reasons=np.array([[[0, 1], [1, NO_ITEM]], [[NO_ITEM, NO_ITEM], [NO_ITEM, NO_ITEM]]], np.int32),
        shares=np.array([[[0.75, 0.25], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]], np.float32),
        interest_norms=np.array([1.5, 0.0], np.float32),
        removed={},
    )


def encoded() -> list[bytes]:
    names = ["zero", "one", "two"]
    heads = ListHeads(["3-40-m-1", "3-41-m-1"], ["ann", "bob"], [1000, 2000], "m-1", 3000)
    return encode_recommendations(lists(), heads, lambda numbers: [names[number] for number in numbers])


def test_recommendation_schema_1_golden_bytes() -> None:
    assert encoded() == [
        b'{"schema":1,"id":"3-40-m-1","user":"ann","release":"m-1","event_ms":1000,"computed_ms":3000,'
        b'"items":[{"item":"two","score":1.25,"source":"interest","interest":1},'
        b'{"item":"one","score":0.5,"source":"neighbour","interest":0,"neighbour_of":"two"},'
        b'{"item":"zero","score":0.0,"source":"popular"}],'
        b'"interests":[[{"item":"zero","share":0.75},{"item":"one","share":0.25}],[{"item":"one","share":1.0}]],"experiment":"","arm":""}',
        b'{"schema":1,"id":"3-41-m-1","user":"bob","release":"m-1","event_ms":2000,"computed_ms":3000,'
        b'"items":[{"item":"one","score":0.0,"source":"popular"}],"interests":[],"experiment":"","arm":""}',
    ]


def test_a_list_from_before_there_were_experiments_decodes() -> None:
    before = encoded()[1].replace(b',"experiment":"","arm":""', b"")
    assert decode_recommendation(before) == decode_recommendation(encoded()[1])


def test_a_list_names_experiment_and_arm() -> None:
    heads = ListHeads(["3-40-m-1", "3-41-m-1"], ["ann", "bob"], [1000, 2000], "m-1", 3000, experiment="e", arm="b")
    value = encode_recommendations(lists(), heads, lambda numbers: [str(number) for number in numbers])[0]
    assert value.endswith(b',"experiment":"e","arm":"b"}')
    assert (decode_recommendation(value).experiment, decode_recommendation(value).arm) == ("e", "b")


def test_an_encoded_list_decodes() -> None:
    for value in encoded():
        fields: Any = json.loads(value)
        recommendation = decode_recommendation(value)
        assert recommendation.user == fields["user"]
        assert [listed.item for listed in recommendation.items] == [listed["item"] for listed in fields["items"]]


def test_unknown_fields_are_ignored() -> None:
    value = json.loads(encoded()[0]) | {"mood": "b"}
    assert decode_recommendation(json.dumps(value).encode()).user == "ann"


def test_a_search_among_the_reasons_golden_bytes() -> None:
    with_search = lists()
    with_search.reasons[0, 0, 1] = FIRST_SEARCH
    names = {FIRST_SEARCH: searches.id_of("Red shoes"), 0: "zero", 1: "one", 2: "two"}
    heads = ListHeads(["3-40-m-1", "3-41-m-1"], ["ann", "bob"], [1000, 2000], "m-1", 3000)
    value = encode_recommendations(with_search, heads, lambda numbers: [names[number] for number in numbers])[0]
    reasons = b'[[{"item":"zero","share":0.75},{"item":"red shoes","share":0.25,"kind":"search"}],'
    tail = b'[{"item":"one","share":1.0}]],"experiment":"","arm":""}'
    assert value == encoded()[0].split(b'"interests":')[0] + b'"interests":' + reasons + tail
    assert decode_recommendation(value).interests[0][1] == Reason("red shoes", 0.25, "search")
