"""Every knob of the service. Set as environment variables: CBAM_LENS_QUEUE_LENGTH=64."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Name with unit, default, reason."""

    model_config = SettingsConfigDict(env_prefix="CBAM_LENS_", frozen=True)

    models_folder: Path | None = None  # folders with a card.toml; None: the bundled models
    family: str = ""  # the default family; empty: the first one there is
    max_upload_mb: float = Field(10, gt=0)  # whole body, MiB; a phone's photo has 3 to 8
    max_megapixels: float = Field(40, gt=0)  # 120 MB once decoded
    max_side_px: int = Field(16_384, gt=0)  # a strip of one pixel's height is no photo
    max_fields: int = Field(16, gt=0)  # form fields beside the photo
    max_field_kb: int = Field(4, gt=0)  # size of one of them, KiB
    upload_timeout_s: float = Field(60, gt=0)  # for the whole body to arrive
    queue_length: int = Field(32, gt=0)  # requests that wait for the model; more get a 503
    retry_after_s: int = Field(1, gt=0)  # what such a 503 advises
    inference_timeout_s: float = Field(30, gt=0)  # from the queue to the answer; then a 504
    decode_threads: int = Field(2, gt=0)  # decoding and encoding pictures, beside the model
    top_k_max: int = Field(20, gt=0)  # predictions and free heat maps an answer may hold
    root_path: str = ""  # where a proxy mounts the app: /lens
