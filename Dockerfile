# CPU   docker build -t inception-zoo --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu .
# GPU   docker build -t inception-zoo --build-arg BASE=nvidia/cuda:12.6.3-runtime-ubuntu24.04 .
#       torch brings its own CUDA libraries (constraints.txt); the driver of the host must support their version.
# Run   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" inception-zoo run experiment=quickstart
#       With GPUs add: --gpus all. With data workers add: --ipc=host (they share memory).
ARG BASE=python:3.11-slim
FROM ${BASE}

# Optional packages, for example --build-arg EXTRAS='[export,search]'; pyproject.toml lists them.
ARG EXTRAS=""
# pip reads this variable: another index beside PyPI, for example of torch without CUDA.
ARG PIP_EXTRA_INDEX_URL=""

# g++ compiles the CPU kernels at first use, and serves model.compile=true. Python comes from apt where the base has none.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ \
    $(python3 -c "import ensurepip" 2>/dev/null || echo python3-dev python3-venv) \
 && rm -rf /var/lib/apt/lists/*

COPY . /tmp/source
RUN python3 -m venv /opt/inception-zoo \
 && /opt/inception-zoo/bin/pip install --no-cache-dir -c /tmp/source/constraints.txt "/tmp/source${EXTRAS}" \
 && rm -r /tmp/source
ENV PATH="/opt/inception-zoo/bin:$PATH"

# Not root. Any other user works as well (docker run --user): the home folder has caches only, and everyone may write there.
RUN useradd --create-home zoo && mkdir /work && chmod 1777 /home/zoo /work
ENV HOME=/home/zoo USER=zoo
USER zoo
WORKDIR /work

ENTRYPOINT ["inception-zoo"]
CMD ["--help"]
