# CPU: docker build -t dinov3 .   then: docker run --rm -v $PWD:/work dinov3 train photos
# CUDA: docker build -t dinov3 --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .   then add --gpus all
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/dinov3
ENV PATH=/opt/dinov3/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# torch first, from the index that was asked for: what comes after keeps it
RUN pip install "torch>=2.11,<2.14" "torchvision>=0.26,<0.29" --index-url $TORCH_INDEX
WORKDIR /src
COPY . .
RUN pip install ".[hdf5,eval,tensorboard]" && rm -rf /src
WORKDIR /work
ENTRYPOINT ["dinov3"]
CMD ["--help"]
