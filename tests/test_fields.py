"""What form fields mean to the engine."""

import pytest
from pydantic import ValidationError

from app.routes.forms import ExplainFields, HeatmapFields, PredictFields
from app.routes.uploads import Upload


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ([], None),
        ([""], None),
        (["layer3.1"], "layer3.1"),
        (["layer3.1,layer4.1"], "layer3.1,layer4.1"),
        (["layer3.1", "layer4.1"], "layer3.1,layer4.1"),
        (["", "layer4.1"], "layer4.1"),
    ],
)
@pytest.mark.parametrize("fields", [ExplainFields, HeatmapFields])
def test_layers_may_be_repeated_or_have_commas_between(
    fields: type[ExplainFields], sent: list[str], meant: str | None
):
    upload = Upload(None, {"layer": sent} if sent else {})
    assert fields.model_validate(fields.values(upload)).options().layer == meant


@pytest.mark.parametrize(("sent", "meant"), [("", None), ("church", "church")])
def test_versus_reaches_the_options(sent: str, meant: str | None):
    for fields in (ExplainFields, HeatmapFields):
        values = fields.values(Upload(None, {"versus": [sent], "method": ["finercam"]}))
        options = fields.model_validate(values).options()
        assert (options.method, options.versus) == ("finercam", meant)


def test_a_route_without_maps_knows_neither():
    for name in ("layer", "versus"):
        with pytest.raises(ValidationError, match="Extra inputs"):
            PredictFields.model_validate(PredictFields.values(Upload(None, {name: ["x"]})))
