"""Every knob of the service. Set as environment variables: CBAM_LENS_QUEUE_LENGTH=64."""

from pathlib import Path
from typing import Annotated, Any, Literal

from limits import parse
from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _words(value: Any) -> Any:
    """`a, b` -> ("a", "b"): how a list stands in an environment variable."""
    if isinstance(value, str):
        return tuple(word for each in value.split(",") if (word := each.strip()))
    return value


Key = Annotated[SecretStr, Field(min_length=32)]  # shorter ones can be guessed


class Settings(BaseSettings):
    """Name with unit, default, reason."""

    model_config = SettingsConfigDict(env_prefix="CBAM_LENS_", frozen=True)

    models_folder: Path | None = None  # folders with a card.toml; None: the bundled models
    family: str = ""  # the default family; empty: the first one there is
    max_upload_mb: float = Field(10, gt=0)  # whole body, MiB; a phone's photo has 3 to 8
    max_megapixels: float = Field(40, gt=0)  # 120 MB once decoded
    max_held_megapixels: float = Field(160, gt=0)  # of all decoded photos that wait; then a 503
    max_side_px: int = Field(16_384, gt=0)  # a strip of one pixel's height is no photo
    max_fields: int = Field(16, gt=0)  # form fields beside the photo
    max_field_kb: int = Field(4, gt=0)  # size of one of them, KiB
    header_timeout_s: float = Field(10, gt=0)  # for a request's head to arrive, or anything at all
    upload_timeout_s: float = Field(60, gt=0)  # for the whole body to arrive
    send_timeout_s: float = Field(60, gt=0)  # without a byte taken of an answer; then it is cut
    keep_alive_s: int = Field(5, gt=0)  # for the next request on a connection
    max_connections: int = Field(512, gt=0)  # open at once; an open file each, often 1,024 in all
    drain_s: int = Field(20, gt=0)  # after SIGTERM, for what runs to finish; then it is cut
    drain_delay_s: float = Field(0, ge=0)  # before that: /readyz says 503, requests are answered
    queue_length: int = Field(32, gt=0)  # requests that wait for the model; more get a 503
    retry_after_s: int = Field(1, gt=0)  # what such a 503 advises
    inference_timeout_s: float = Field(30, gt=0)  # from the queue to the answer; then a 504
    backend: str = "eager"  # what runs the networks: a name of cbam.backends.choose, or auto
    batch: int = Field(8, gt=0)  # questions that share a pass; more hardly pay on a CPU
    batch_wait_ms: float = Field(0, ge=0, le=1000)  # between batches, for more; 5 helps a GPU
    model_threads: int = Field(0, ge=0)  # CPU threads of one pass; 0: what the container was given
    decode_threads: int = Field(2, gt=0)  # decoding and encoding pictures, beside the model
    top_k_max: int = Field(20, gt=0)  # predictions and free heat maps an answer may hold
    log_style: Literal["plain", "json", "off"] = "plain"  # a line a request; off: none of ours
    root_path: str = ""  # where a proxy mounts the app: /lens; no name of ours, such as /api
    trusted_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = ()  # lens.org,
    # *.lens.org: the names in Host that are answered, others get a 400; empty: any
    forwarded_allow_ips: str = "127.0.0.1"  # proxies, comma-separated, whose X-Forwarded-* counts
    rate_limit: str = ""  # questions for each client: 60/minute, as so many at once; empty: any
    api_keys: Annotated[tuple[Key, ...], NoDecode, BeforeValidator(_words)] = ()  # comma-separated,
    # of 32 characters or more: questions need one of them; empty: they do not

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, value: str) -> str:
        """Raises ValueError: a service that starts with a rate it can't read would have none."""
        if value:
            try:
                parse(value)
            except ValueError as error:
                raise ValueError(f"'{value}' is no rate. Say for instance 60/minute.") from error
        return value
