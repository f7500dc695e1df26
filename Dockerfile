# medinfer in a container, for the CPU:     docker build -t medonnx .
# with an onnxruntime for NVIDIA's GPUs:    docker build -t medonnx:gpu --build-arg EXTRAS=gpu,dicom .
# How to run it, read-only and without a network: docs/install.md.
FROM python:3.12-slim AS build
ARG EXTRAS=cpu,dicom
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=/source/constraints.txt
WORKDIR /source
COPY constraints.txt ./
# Versions are those of constraints.txt, which the linter does not see.
# hadolint ignore=DL3013
RUN pip install build hatchling && python -m venv --without-pip /opt/medonnx
COPY pyproject.toml README.md LICENSE ./
COPY runtime runtime
COPY train train
COPY export export
# hadolint ignore=DL3013
RUN python -m build --wheel --no-isolation --outdir /wheels . \
    && set -- /wheels/*.whl \
    && pip --python /opt/medonnx install "$1[$EXTRAS]"

# The same small base for a GPU: CUDA and cuDNN are wheels too, of the versions that this onnxruntime asks for, where an
# image of NVIDIA's would have to be kept in step by hand. The driver is the host's.
FROM python:3.12-slim
LABEL org.opencontainers.image.title="medonnx" \
      org.opencontainers.image.description="Runs exported medical image classifiers. Research use only; not a medical device." \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/medonnx /opt/medonnx
ENV PATH=/opt/medonnx/bin:$PATH PYTHONDONTWRITEBYTECODE=1 NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /data
# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
ENTRYPOINT ["medinfer"]
CMD ["--help"]
