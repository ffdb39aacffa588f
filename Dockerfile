# A small image of the command line; see docs/shell.md. Not built by CI.
FROM python:3.11-slim

# Extras to install as well, such as [torch] or [flax].
ARG EXTRAS=""

COPY setup.cfg setup.py pyproject.toml README.md LICENSE /src/
COPY converter /src/converter
COPY mappings /src/mappings
RUN pip install --no-cache-dir "/src${EXTRAS}" && rm -r /src

# Whoever it runs as, with -u or without, can write to the Hub's cache.
RUN useradd --create-home converter && mkdir /cache /work && chmod 1777 /cache /work
ENV HF_HOME=/cache
USER converter
WORKDIR /work

ENTRYPOINT ["converter"]
CMD ["--help"]
