# One image for the operator (`kigi-operator`), the node cache daemon (`kigi-cache`) and the disk hook (`kigi-disk-hook`).
FROM debian:trixie-slim

COPY requirements.lock /tmp/kigi/
COPY image /tmp/kigi/image
RUN /tmp/kigi/image/install.sh dependencies /tmp/kigi

COPY pyproject.toml README.md LICENSE /tmp/kigi/
COPY operator /tmp/kigi/operator
COPY node-cache-daemon /tmp/kigi/node-cache-daemon
RUN /tmp/kigi/image/install.sh kigi /tmp/kigi && rm -rf /tmp/kigi

ENV PATH=/opt/kigi/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1
CMD ["kigi-operator"]
