# CBAM Lens with its bundled models: no network use at run time.
#   docker build -t cbam-lens . && docker run --rm -p 8000:8000 cbam-lens
# BASE: any slim Debian image with Python 3.11 or newer.
# TORCH_INDEX: an index of torch wheels, such as PyTorch's own for CPUs, which makes the image some
#   gigabytes smaller; empty: the package index as it is (on x86 that is the CUDA build).
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/cbam-lens
RUN /opt/cbam-lens/bin/pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY cbam cbam
COPY app app
COPY models models
COPY templates templates
COPY static static
RUN /opt/cbam-lens/bin/pip install . \
    && /opt/cbam-lens/bin/pip uninstall --yes pip

FROM ${BASE}
LABEL org.opencontainers.image.title="CBAM Lens" \
      org.opencontainers.image.description="See what attention changes: plain, SE and CBAM networks side by side." \
      org.opencontainers.image.licenses="MIT"
# OpenCV, which some of grad-cam's methods use, needs these two.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/cbam-lens /opt/cbam-lens
ENV PATH=/opt/cbam-lens/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    PORT=8000
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin lens
USER 10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/readyz', timeout=2)"]
ENTRYPOINT ["cbam-lens", "serve", "--host", "0.0.0.0"]
