# For development and for registries of your own: `docker build .` makes one image with all programs, and `--target operator`,
# `--target daemon` and `--target hook` one for each; docs/install.md has how to install one or three. A release's images come
# from `make release`: their Debian packages are pinned, too, and they have no shell (docs/decisions, 39).
FROM scratch AS sources
COPY pyproject.toml README.md LICENSE /
COPY operator /operator
COPY node-cache-daemon /node-cache-daemon

FROM debian:trixie-slim@sha256:a29215f6a35e51e22adffa17f89e9d2ef06214e64a2bad10d765c46aea49f11f AS base
COPY requirements.lock /opt/build/
COPY image /opt/build/image
ENV PATH=/opt/kigi/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.title=Kigi

FROM base AS operator
RUN /opt/build/image/install.sh operator /opt/build
RUN --mount=type=bind,from=sources,target=/sources /opt/build/image/install.sh kigi /sources
USER 65532:65532
ENTRYPOINT ["kigi-operator"]

FROM base AS daemon
RUN /opt/build/image/install.sh daemon /opt/build
RUN --mount=type=bind,from=sources,target=/sources /opt/build/image/install.sh kigi /sources
USER 65532:65532
ENTRYPOINT ["kigi-cache"]

FROM base AS hook
RUN /opt/build/image/install.sh hook /opt/build
RUN --mount=type=bind,from=sources,target=/sources /opt/build/image/install.sh kigi /sources
USER 65532:65532
ENTRYPOINT ["kigi-disk-hook"]

FROM base AS all
RUN /opt/build/image/install.sh dependencies /opt/build
RUN --mount=type=bind,from=sources,target=/sources /opt/build/image/install.sh kigi /sources
USER 65532:65532
CMD ["kigi-operator"]
