# docker build -t frenzy .
# docker run --network none -v /path/to/data:/data frenzy                                scores SavedModel/ on the data
# docker run --network none -v /path/to/data:/data -v "$PWD":/workspace frenzy python /workspace/standalone_inference.py \
#     --load_folder /workspace/SavedModel/
# docker run --network none frenzy tools/count.py                                        any tool, or any other command
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends graphviz \
    && rm -rf /var/lib/apt/lists/*

COPY requirements.txt /tmp/
RUN pip install --no-cache-dir -r /tmp/requirements.txt && rm /tmp/requirements.txt

RUN useradd --create-home --uid 1000 frenzy
COPY docker-entrypoint.sh /usr/local/bin/
COPY . /workspace/
WORKDIR /workspace
USER frenzy

ENV FRENZY_DATA=/data \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/workspace \
    PYTHONUNBUFFERED=1

ENTRYPOINT ["/bin/sh", "/usr/local/bin/docker-entrypoint.sh"]
