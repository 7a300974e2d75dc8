"""The service on Ray Serve: as many replicas on as many machines as the traffic needs.

    pip install 'cbam-lens[ray]'                                   # on every machine
    serve run --working-dir deploy ray_serve:build                 # on one; http://localhost:8000
    CBAM_LENS_RAY_MIN_REPLICAS=2 CBAM_LENS_RAY_GPUS=1 serve run --working-dir deploy ray_serve:build

The service's own settings (CBAM_LENS_*) are read where this runs and hold for every replica. A
replica takes requests once its models are loaded and warm. Nothing is shared between replicas, so a
rate limit counts in each. Ray's proxy speaks HTTP in front of them: it puts its own X-Request-ID on
answers, and the deadlines of slow uploads are a reverse proxy's task.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from app.main import create_app
from app.settings import Settings

LOOK_S = 0.1  # how often a replica that starts looks whether its models are loaded


class RaySettings(BaseSettings):
    """Name with unit, default, reason. Set as CBAM_LENS_RAY_MAX_REPLICAS=8."""

    model_config = SettingsConfigDict(env_prefix="CBAM_LENS_RAY_", frozen=True)

    min_replicas: int = Field(1, ge=1)  # never 0: a cold start takes longer than anybody waits
    max_replicas: int = Field(4, ge=1)  # as min_replicas: no autoscaling
    target_ongoing_requests: float = Field(4, gt=0)  # of a replica; more of them: one replica more
    upscale_delay_s: float = Field(10, ge=0)  # of too much traffic before a replica is added
    downscale_delay_s: float = Field(300, ge=0)  # of too little before one goes
    max_ongoing_requests: int = Field(16, ge=1)  # in a replica; below its own queue's length
    max_queued_requests: int = Field(64, ge=1)  # before the replicas, a proxy; more get a 503
    cpus: float = Field(1, gt=0)  # of a replica; Ray sets OMP_NUM_THREADS to it
    gpus: float = Field(0, ge=0)  # of a replica; 0.5: two share one


def build(
    _: dict[str, str] | None = None,
    settings: Settings | None = None,
    ray_settings: RaySettings | None = None,
) -> serve.Application:
    """The application for `serve run`; settings that are not given are the environment's."""
    ray = ray_settings or RaySettings()
    settings = settings or Settings()
    scaling = AutoscalingConfig(
        min_replicas=ray.min_replicas,
        max_replicas=max(ray.min_replicas, ray.max_replicas),
        target_ongoing_requests=ray.target_ongoing_requests,
        upscale_delay_s=ray.upscale_delay_s,
        downscale_delay_s=ray.downscale_delay_s,
    )
    deployment = serve.deployment(
        serve.ingress(_loaded_app(settings))(),
        name="Lens",
        autoscaling_config=scaling,
        max_ongoing_requests=ray.max_ongoing_requests,
        max_queued_requests=ray.max_queued_requests,
        backpressure_config=BackpressureConfig(retry_after_s=settings.retry_after_s),
        graceful_shutdown_timeout_s=settings.drain_s,
        ray_actor_options={"num_cpus": ray.cpus, "num_gpus": ray.gpus},
    )
    return deployment.bind()


def _loaded_app(settings: Settings) -> Callable[[], FastAPI]:
    """What a replica calls to make its app, whose start is over once its models are loaded."""

    def make() -> FastAPI:
        app = create_app(settings)
        start = app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
            async with start(app):
                while not app.state.engine.ready:
                    if app.state.engine.problem:  # Ray then tries anew, and says so
                        raise RuntimeError(app.state.engine.problem)
                    await asyncio.sleep(LOOK_S)
                yield

        app.router.lifespan_context = lifespan
        return app

    return make
