"""The form fields of each route: checked once, documented from the same place."""

from dataclasses import replace
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.routes.uploads import FIELD_NAME, Upload
from cbam.detectors import OF
from cbam.errors import OptionClash
from cbam.evaluate.examine import Exam
from cbam.evaluate.faithfulness import FILLS, Trial
from cbam.explain.d_rise import NAME as D_RISE
from cbam.explain.d_rise import DRiseOptions
from cbam.explain.detection import BOX_METHODS, DetectOptions, read_box
from cbam.explain.features import MOST, PICKS, FeatureOptions, Pick
from cbam.explain.formulas import FUSIONS
from cbam.explain.question import Options
from cbam.images.formats import EITHER

# In a form, an empty text means that none was given; so does what JavaScript makes of null.
NOTHING = ("", "null")


def absent(default: Any) -> BeforeValidator:
    """For a query parameter outside a form: an empty one is an absent one."""

    def given(value: Any) -> Any:
        return default if isinstance(value, str) and value.strip() in NOTHING else value

    return BeforeValidator(given)


SERVED_MASKS = 500  # of D-RISE by default; with the paper's 5,000, an answer takes minutes
SLICE = 8  # masked photos at once: a fraction of a second, so that other questions wait no longer
LISTS = ("models", "layer")  # fields that may name several
MOST_MODELS = 8  # that one form may name
Text = Annotated[str, Field(max_length=200)]
GatesText = Annotated[
    str,
    Field(
        max_length=4000,
        description="what to change about gates, such as layer1.0.channel=off, *.spatial=0.5; "
        "alone: open, mean. The answer is then that of an intervention, not of a retrained network",
    ),
]
LayersText = Annotated[str, Field(max_length=500)]  # long enough to name all blocks of a ResNet-101


class Fields(BaseModel):
    """Fields that every route has. An unknown field is an error, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: list[str] = Field(
        [],
        max_length=MOST_MODELS,
        description="names of models, repeated or with commas between; default: the default family",
    )
    family: Text = Field("", description="a family to ask, if no models are named")

    @classmethod
    def values(cls, upload: Upload) -> dict[str, Any]:
        """The upload's fields as this model takes them, the same for every one.

        An empty field is an absent one. `models` and `layer` may be repeated and may have commas
        between their names. Of other repeated fields the last counts.
        """
        values: dict[str, Any] = {}
        for name, texts in upload.fields.items():
            given = [text for each in texts if (text := each.strip()) not in NOTHING]
            if name not in cls.model_fields:
                values[name] = texts[-1]  # an error, even if it is empty
            elif given:
                values[name] = given[-1]
                if name in LISTS:
                    names = [part for each in given for text in each.split(",")
                             if (part := text.strip()) not in NOTHING]  # fmt: skip
                    values[name] = names if name == "models" else ",".join(names)
        return values

    def wanted(self, default_family: list[str]) -> list[str]:
        """Names of the models to ask; none: the whole family."""
        return self.models

    def options(self) -> Options:
        """The options for the engine; here the defaults."""
        return Options()


class PredictFields(Fields):
    """/predict"""

    top_k: int = Field(Options.top_k, ge=1, description="number of predictions")
    gates: GatesText = ""

    def options(self) -> Options:
        return Options(top_k=self.top_k, attention=False, gates=self.gates)


class AttentionFields(Fields):
    """/attention"""

    gates: GatesText = ""

    def options(self) -> Options:
        return Options(gates=self.gates)


class TargetFields(Fields):
    """What to explain, and how."""

    target: Text = Field(
        "",
        description="a class by label, index, WordNet id or synonym, or an everyday word such as "
        "cat, see /api/v1/classes; default: the first model's top class",
    )
    method: str = Field(Options.method, description="a CAM method's name, see /api/v1/methods")
    layer: LayersText = Field(
        "",
        description="the block to explain, see /api/v1/models; repeat the field or use commas for "
        "one map of several blocks; default: the last block",
    )
    fuse: Text = Field(
        Options.fuse,
        description="how the maps of several blocks become one: "
        + "; ".join(f"{name}: {each.says}" for name, each in FUSIONS.items()),
    )
    versus: Text = Field(
        "",
        description="for methods that contrast the target with another class: that class, named "
        "like a target; default: the classes that come closest",
    )

    def options(self) -> Options:
        return Options(
            self.target or None,
            self.method,
            self.layer or None,
            top_k=1,
            attention=False,
            versus=self.versus or None,
            fuse=self.fuse,
        )


class CompareFields(TargetFields):
    """/compare"""

    gates: GatesText = ""

    def options(self) -> Options:
        return replace(super().options(), gates=self.gates)


class ExplainFields(CompareFields):
    """/explain"""

    top_k: int = Field(
        Options.top_k,
        ge=1,
        description="number of predictions, and of heat maps if they cost nothing",
    )
    attention: bool = Field(True, description="whether to return gate maps")

    def options(self) -> Options:
        return replace(super().options(), top_k=self.top_k, attention=self.attention)


class FeaturesFields(Fields):
    """/features"""

    block: Text = Field(
        "", description="a block that has gates, see /api/v1/models; default: the last one"
    )
    channels: Text = Field(
        "",
        description=f"channels by number, such as 7, 12-15; at most {MOST}; default: those of pick",
    )
    pick: Text = Field(
        FeatureOptions.pick,
        description="; ".join(f"{name}: {what}" for name, what in PICKS.items()),
    )
    count: int = Field(
        FeatureOptions.count, ge=1, le=MOST, description="how many channels are picked"
    )
    gates: GatesText = ""

    def look(self) -> FeatureOptions:
        """The options for looking inside. Raises BadOption, UnknownName."""
        pick = cast("Pick", self.pick)  # checked there
        return FeatureOptions(self.block, self.channels or None, pick, self.count, self.gates)


class InterveneFields(ExplainFields):
    """/intervene"""

    gates: GatesText = "open"


class FaithfulnessFields(CompareFields):
    """/faithfulness"""

    curves: bool = Field(True, description="false leaves out the curves, which take most passes")
    steps: int = Field(
        Trial.steps, ge=2, le=20, description="the photo is taken away in so many equal parts"
    )
    fill: str = Field(
        Trial.fill, description=f"what stands where pixels are taken away: {', '.join(FILLS)}"
    )
    orders: int = Field(
        Trial.orders, ge=0, le=10, description="random orders to hold beside the map's"
    )
    randomisation: bool = Field(
        False,
        description="also make the maps of networks whose weights are random from the head down",
    )
    box: Text = Field(
        "",
        description="x0,y0,x1,y1 in pixels of the upright photo: how much of each map lies inside",
    )

    def exam(self, time_limit_s: float) -> Exam:
        """What to try. Raises UnknownName, OptionClash for a box that is none."""
        return Exam(
            Trial(self.steps, self.fill, self.orders) if self.curves else None,
            self.randomisation,
            read_box(self.box) if self.box else None,
            time_limit_s,
        )


class BundleFields(ExplainFields):
    """/bundle"""

    format: Literal["zip", "html"] = Field(
        "zip", description="zip: photo, maps and manifest; html: one page to read"
    )


class HeatmapFields(TargetFields):
    """/heatmap: a picture without words, which could not say that gates were changed."""

    model: Text = Field("", description="the model to ask; default: the last of the default family")
    overlay: bool = Field(
        True, description="false: only the map of the view in colour, without the photo"
    )
    raw: bool = Field(False, description="true: the map as 8-bit grey levels")
    opacity: float = Field(0.7, ge=0, le=1, description="opacity of the hottest cell")

    def wanted(self, default_family: list[str]) -> list[str]:
        named = [self.model] if self.model else self.models
        if len(named) > 1:
            raise OptionClash(f"A heat map shows one model; {len(named)} are named.")
        return named or ([] if self.family else default_family[-1:])


class SearchFields(Fields):
    """What detectors look for."""

    models: list[str] = Field(
        [],
        max_length=MOST_MODELS,
        description="names of detectors; default: the first family",
    )
    score: float = Field(DetectOptions.score, ge=0, le=1, description="least score of a box")
    iou: float = Field(
        DetectOptions.iou,
        ge=0,
        le=1,
        description="of two boxes of one class that overlap more, the surer one stays",
    )
    limit: int = Field(DetectOptions.limit, ge=1, le=100, description="most boxes of a model")

    def search(self) -> DetectOptions:
        """The options for detectors."""
        return DetectOptions(self.score, self.iou, self.limit)


class DetectFields(SearchFields):
    """/detect"""

    maps: int = Field(
        DetectOptions.maps, ge=0, le=20, description="heat maps: of so many boxes, the surest ones"
    )
    box: Text = Field(
        "",
        description="x0,y0,x1,y1 in pixels of the upright photo: instead, each model's box that "
        "overlaps most with this one, by half at least, gets the heat map",
    )
    label: Text = Field("", description="with `box`: only boxes of this class; default: of any")
    of: str = Field(
        DetectOptions.of,
        description=f"what the heat maps explain: {', '.join(OF)}; the sides: how far they are",
    )
    method: str = Field(
        DetectOptions.method,
        description=f"{', '.join(BOX_METHODS)}; {D_RISE} hides parts of the photo instead, in many "
        "passes, and explains the score alone, without gate maps",
    )
    masks: int = Field(
        SERVED_MASKS, ge=1, le=DRiseOptions.masks, description=f"{D_RISE}: how often it hides parts"
    )
    seed: int = Field(
        DRiseOptions.seed, ge=0, le=2**31, description=f"{D_RISE}: the same one, the same masks"
    )
    layer: Text = Field(
        "",
        description="a block's name, or up to four, as layer2.1,layer3.1, whose maps become one; "
        "default: the last one that can be",
    )
    attention: bool = Field(True, description="gate maps too")

    def search(self) -> DetectOptions:
        """The options for detectors. Raises OptionClash for a box that is none."""
        return replace(
            super().search(),
            maps=self.maps,
            box=read_box(self.box) if self.box else None,
            label=self.label or None,
            of=self.of,
            method=self.method,
            layer=self.layer or None,
            attention=self.attention,
        )

    def hidden(self) -> DRiseOptions | None:
        """How to hide parts of the photo; None for other methods."""
        if self.method != D_RISE:
            return None
        return DRiseOptions(masks=self.masks, seed=self.seed, batch=SLICE)


class LiveTask(BaseModel):
    """/live: the kind of question, which decides what other fields there are"""

    task: Literal["classify", "find"] = Field(
        "classify",
        description="classify: what each model sees; find: the boxes of detectors",
    )


class LiveFields(LiveTask, Fields):
    """/live: what is asked of every frame"""

    target: Text = Field("", description="a class as for /explain; default: each frame's top one")
    top_k: int = Field(3, ge=1, le=10)

    def options(self) -> Options:
        return Options(self.target or None, top_k=self.top_k, in_words=True)


class LiveFindFields(LiveTask, SearchFields):
    """/live with `task=find`: what detectors look for on every frame, without heat maps"""

    def search(self) -> DetectOptions:
        return replace(super().search(), maps=0, attention=False)


class PageFields(ExplainFields):
    """POST / of the page, where a gallery photo can replace the upload."""

    top_k: int = Field(10, ge=1)  # the page switches between this many classes without asking again
    photo: Text = Field("", description="file name of a gallery photo; it replaces an upload")

    @property
    def changes_gates(self) -> bool:
        """Whether the answer is to be shown before and after gates are changed."""
        return bool(self.gates.strip())

    def options(self) -> Options:
        return replace(super().options(), in_words=True)


def body(fields: type[Fields]) -> dict[str, Any]:
    """The OpenAPI description of a multipart form with a photo and these fields."""
    schema = fields.model_json_schema()
    photo = {"type": "string", "format": "binary", "description": f"the photo: {EITHER}"}
    schema["properties"] = {FIELD_NAME: photo, **schema["properties"]}
    schema["required"] = [FIELD_NAME]
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }
