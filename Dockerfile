# Two images from one file: `--target edge` for a board's agent, `--target coordinator` for everything else. Both are
# built for amd64 and arm64: `make images`.
FROM python:3.12-slim AS base
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
COPY models models
COPY broker broker
COPY coordinator coordinator
COPY edge_agent edge_agent
COPY emulation emulation
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

FROM base AS edge
RUN pip install --constraint constraints.txt ".[edge]"
WORKDIR /lamina
ENTRYPOINT ["lamina-agent"]

FROM base AS coordinator
RUN apt-get update && apt-get install --yes --no-install-recommends mosquitto && rm -rf /var/lib/apt/lists/*
# The CPU build of torch: the default one for amd64 brings gigabytes of CUDA.
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu --constraint constraints.txt ".[emulation]"
WORKDIR /lamina
ENTRYPOINT ["lamina"]
