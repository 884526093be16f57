# Two images from one file: `--target edge` for a board's agent, `--target coordinator` for everything else.
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
# The CPU build of torch: the default one brings gigabytes of CUDA.
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu --constraint constraints.txt ".[emulation]"
WORKDIR /lamina
ENTRYPOINT ["lamina"]
