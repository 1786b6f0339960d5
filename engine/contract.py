"""The model contract: names, types and shapes of a release's ONNX graphs.

`models` exports graphs to this contract; `engine` checks every release against it, and refuses one that differs by
naming the difference.

Letters of shapes, the same in the whole project:
    B users in a batch, L window length, K interests, D dimensions, V items, C candidates, N recommended.

items.onnx     item vectors in, attention tables out; run once when a release is loaded (and for items added later)
    in   vectors    float32 [V, D]     e(x), id embedding plus content
    out  keys1      float32 [V, D]     K1 z(x)   with z(x) = LN(e(x))
    out  values1    float32 [V, D]     V1 z(x)
    out  keys2      float32 [V, D]     K2 z(x)
    out  values2    float32 [V, D]     V2 z(x)

encoder.onnx   windows in, interests out; run once per micro-batch
    in   vectors, keys1, values1, keys2, values2    the tables above
    in   items      int32   [B, L]     rows of the tables, newest last; any valid row where the weight is 0
    in   ages       float32 [B, L]     log(1 + hours between the event and the window's newest event)
    in   weights    float32 [B, L]     weight of the event's action; 0 hides the event (padding is on the left)
    out  interests  float32 [B, K, D]
    out  attention  float32 [B, K, L]  share of each event in each interest, rows sum to 1

content.onnx   features of items in, item vectors out; run for items that come after training. Only in a release that
               was trained with content
    in   buckets    int32   [V, F]     features of each item (`engine.catalogue.content`)
    in   weights    float32 [V, F]     0 where an item has fewer than F
    in   dense      float32 [V, E]     given vectors; only in a release that was trained with some
    out  vectors    float32 [V, D]     e(x) without an id embedding

The tables are inputs, not constants of the graph, so that one graph serves a growing catalogue and a release can hold
its item vectors once. Keys and values are four times as much memory as the item vectors; they may be float16 or int8
instead (`Contract.tables`). The newest event (last column) must have a weight above 0.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

SCHEMA: Final = 1
CONTENT_RECIPE: Final = 1
"""Version of the features of `engine.catalogue.content`; a release is served only with those it was trained with."""
ENCODER_FILE: Final = "encoder.onnx"
ITEMS_FILE: Final = "items.onnx"
CONTENT_FILE: Final = "content.onnx"
VECTORS_FILE: Final = "vectors.npy"
NEIGHBOURS_FILE: Final = "neighbours.npy"
NEIGHBOUR_WEIGHTS_FILE: Final = "neighbour_weights.npy"
LABEL_NAMES_FILE: Final = "labels.json"
LABELS_FILE: Final = "labels.npy"
POPULARITY_FILE: Final = "popularity.npy"
IDS_FILE: Final = "ids.json"
REPORT_FILE: Final = "report.json"
MANIFEST_FILE: Final = "release.json"

TABLES: Final = ("keys1", "values1", "keys2", "values2")
TableType = Literal["float32", "float16", "int8"]
TABLE_TYPES: Final[dict[TableType, str]] = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "int8": "tensor(int8)",
}

# name -> (dtype as onnxruntime spells it, axes by letter)
ITEMS_INPUTS: Final = {"vectors": ("tensor(float)", "VD")}
ITEMS_OUTPUTS: Final = dict.fromkeys(TABLES, ("tensor(float)", "VD"))
ENCODER_INPUTS: Final = {
    "vectors": ("tensor(float)", "VD"),
    **dict.fromkeys(TABLES, ("tensor(float)", "VD")),
    "items": ("tensor(int32)", "BL"),
    "ages": ("tensor(float)", "BL"),
    "weights": ("tensor(float)", "BL"),
}
ENCODER_OUTPUTS: Final = {"interests": ("tensor(float)", "BKD"), "attention": ("tensor(float)", "BKL")}
CONTENT_INPUTS: Final = {
    "buckets": ("tensor(int32)", "VF"),
    "weights": ("tensor(float)", "VF"),
    "dense": ("tensor(float)", "VE"),
}
CONTENT_OUTPUTS: Final = {"vectors": ("tensor(float)", "VD")}


@dataclass(frozen=True, slots=True)
class ContentSizes:
    """Sizes of the content graph's inputs."""

    buckets: int
    """Number of buckets that features hash into."""
    dense: int = 0
    """E, the length of given vectors; 0 where the release has none."""
    recipe: int = CONTENT_RECIPE
    """Version of the features."""

    @property
    def inputs(self) -> dict[str, tuple[str, str]]:
        """The graph's inputs: CONTENT_INPUTS, without `dense` where E is 0."""
        return {name: spec for name, spec in CONTENT_INPUTS.items() if self.dense or name != "dense"}


@dataclass(frozen=True, slots=True)
class NeighbourSizes:
    """Size of a release's table of neighbours, and the parameters of the score (`engine.retrieval.item_neighbours`)."""

    count: int
    """M, the most neighbours of an item."""
    last_items: int
    """W: newest items of a window whose neighbours count."""
    decay: float
    """Factor of a neighbour's weight for each item that is newer than the one it belongs to."""
    weight: float
    """w, the weight of the neighbours' part of the score."""
    floor: float
    """Affinity that makes the part log(2) * w."""


@dataclass(frozen=True, slots=True)
class PopularityScore:
    """Parameters of the part of the score that popularity gives (`engine.retrieval.blend`)."""

    weight: float
    """w, the weight of the part."""
    floor: float
    """Share of all events of seven days that makes the part log(2) * w."""


@dataclass(frozen=True, slots=True)
class Contract:
    """Sizes, precision and types of one release's graphs."""

    window_length: int
    """L of the encoder's training; the graph accepts any length up to it."""
    interests: int
    """K."""
    dimensions: int
    """D."""
    tolerance: float = 1e-4
    """Largest absolute difference allowed on any output between torch and onnxruntime, or between a graph of lower
    precision and the float32 graph it was made from."""
    opset: int = 18
    tables: TableType = "float32"
    """Type of the keys and values of both hops; the scale of an int8 is known to the two graphs alone."""
    content: ContentSizes | None = None
    """None for a release that was trained without content, and so knows no items but its own."""
    neighbours: NeighbourSizes | None = None
    """None for a release without a table of neighbours."""
    popularity: PopularityScore | None = None
    """None for a release in whose scores popularity has no part."""
    log_partition: float | None = None
    """Mean over windows of log(sum over all items of exp(score)): sets the scores of items that came after training
    (`engine.retrieval.later_items`). None for a release that lists none of them."""

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as in a release's manifest."""
        return asdict(self)

    def typed(self, values: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
        """Inputs or outputs of a graph with this contract's type of tables, from those with float32 tables."""
        table_type = TABLE_TYPES[self.tables]
        return {name: (table_type if name in TABLES else dtype, axes) for name, (dtype, axes) in values.items()}
