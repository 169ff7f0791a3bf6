# parley for the GPU profiles, with vLLM, QLoRA and Weights & Biases. NOT BUILT OR RUN by its authors, who had neither Docker
# nor a GPU: report what you had to change.
#   docker build -t parley .
#   docker run --gpus all --ipc=host -v $PWD/outputs:/runs/outputs -v $PWD/models:/runs/models parley hardware=gpu …
FROM nvidia/cuda:12.9.1-devel-ubuntu24.04
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv python3-dev build-essential git \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/parley
ENV PATH=/opt/parley/bin:$PATH OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
COPY conf ./conf
# vLLM decides on torch's CUDA build; constraints.txt is for the CPU's set.
RUN pip install --no-cache-dir '.[vllm,qlora,wandb,openai,gguf]'
WORKDIR /runs
ENTRYPOINT ["parley"]
