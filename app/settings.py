"""Every knob of the service. Set as environment variables: CBAM_LENS_QUEUE_LENGTH=64."""

from pathlib import Path
from typing import Annotated, Any, Literal

from limits import parse
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cbam.errors import BadSetting

PREFIX = "CBAM_LENS_"


def _words(value: Any) -> Any:
    """`a, b` -> ("a", "b"): how a list stands in an environment variable."""
    if isinstance(value, str):
        return tuple(word for each in value.split(",") if (word := each.strip()))
    return value


def _ascii(key: SecretStr) -> SecretStr:
    """Raises ValueError: others cannot be sent as a password everywhere."""
    if not key.get_secret_value().isascii():
        raise ValueError("a key has ASCII characters alone")
    return key


# Shorter ones can be guessed.
Key = Annotated[SecretStr, Field(min_length=32), AfterValidator(_ascii)]


class Settings(BaseSettings):
    """Name with unit, default, reason."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, env_ignore_empty=True, allow_inf_nan=False
    )

    models_folder: Path | None = None  # folder with a folder for each model; empty: bundled models
    family: str = ""  # the family asked by default; empty: the one that knows the most classes
    max_upload_mb: float = Field(10, gt=0)  # largest request body, MiB; a phone's photo has 3 to 8
    max_megapixels: float = Field(40, gt=0)  # largest photo; 40 megapixels take 160 MB once decoded
    max_held_megapixels: float = Field(160, gt=0)  # all decoded photos together; more get a 503
    max_side_px: int = Field(16_384, gt=0)  # longest side of a photo; stops extremely long strips
    # most form fields beside the photo; the largest form, with eight models and four layers, has 24
    max_fields: int = Field(24, gt=0)
    max_field_kb: int = Field(4, gt=0)  # largest form field in KiB
    header_timeout_s: float = Field(10, gt=0)  # time for a request's headers to arrive
    upload_timeout_s: float = Field(60, gt=0)  # time for the whole body to arrive; then a 408
    # close the connection if the client reads nothing for this long
    send_timeout_s: float = Field(60, gt=0)
    keep_alive_s: int = Field(5, gt=0)  # close a connection that is idle this long between requests
    # most open connections; each is an open file, of which systems often allow 1,024
    max_connections: int = Field(512, gt=0)
    drain_s: int = Field(20, gt=0)  # time for running requests to finish after SIGTERM
    drain_delay_s: float = Field(0, ge=0)  # before that, keep answering while /readyz says 503
    queue_length: int = Field(32, gt=0)  # most requests that wait for the models; more get a 503
    retry_after_s: int = Field(1, gt=0)  # seconds to wait that a 503 names in Retry-After
    inference_timeout_s: float = Field(30, gt=0)  # longest time from queue to answer; then a 504
    # longest time for a long question, such as /faithfulness, whose slices let others go between
    long_timeout_s: float = Field(120, gt=0)
    long_at_once: int = Field(2, gt=0)  # most long questions under way; more get a 503
    backend: str = "auto"  # what runs the networks: a name in BACKENDS, or auto for the fastest
    batch: int = Field(8, gt=0)  # most requests that share one pass; more than 8 hardly helps a CPU
    batch_wait_ms: float = Field(0, ge=0, le=1000)  # time to wait for a fuller batch; 5 helps a GPU
    model_threads: int = Field(0, ge=0)  # CPU threads for one pass; 0: all that the container has
    decode_threads: int = Field(2, gt=0)  # threads that decode and encode pictures
    top_k_max: int = Field(20, gt=0)  # largest top_k that a request may ask for
    log_style: Literal["plain", "json", "off"] = "plain"  # one line per request; off: uvicorn's own
    root_path: str = ""  # where a proxy mounts the service, such as /lens; not a path like /api
    # values of Host to answer, such as lens.org, *.lens.org; others get a 400; empty: all
    trusted_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = ()
    forwarded_allow_ips: str = "127.0.0.1"  # proxies (comma-separated) whose X-Forwarded-* we trust
    # requests per client, for example 60/minute, which is also the largest burst; empty: unlimited
    rate_limit: str = ""
    # keys of 32 ASCII characters or more, comma-separated, one of which questions need; empty: none
    api_keys: Annotated[tuple[Key, ...], NoDecode, BeforeValidator(_words)] = ()

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

    @field_validator("root_path")
    @classmethod
    def _is_a_path(cls, value: str) -> str:
        """Raises ValueError: a prefix that no path can begin with would serve nothing."""
        if value and not value.startswith("/"):
            raise ValueError(f"it has to begin with /, as in /{value[:40]}")
        return value


def read_settings(**given: Any) -> Settings:
    """The settings that are `given`, else those of the environment. Raises BadSetting."""
    try:
        return Settings(**given)
    except ValidationError as error:
        findings = error.errors(include_url=False, include_context=False)
        raise BadSetting(" ".join(_sentence(item) for item in findings)) from None


def _sentence(finding: Any) -> str:
    """One of pydantic's findings: `CBAM_LENS_BATCH is 'x': Input should be a valid integer.`"""
    name = str(finding["loc"][0])
    # A key is a secret: whatever it is, it is not printed.
    came = "" if name == "api_keys" else f" is '{str(finding['input'])[:80]}'"
    said = finding["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{PREFIX}{name.upper()}{came}: {said}."
