# docker build -t token-sidecar .
# Behind a company's own certificate authority or package mirror, two optional build secrets help; neither gets into a layer:
#   --secret id=ca,src=ca.pem      certificates to trust
#   --secret id=pip,src=pip.conf   pip's settings
# The forwarding path is compiled. --build-arg COMPILE=0 leaves it interpreted, where no C compiler can be had from Debian:
# it then takes a quarter more CPU.

FROM python:3.13-slim AS build
ARG COMPILE=1
# (python3-dev only where the base image has Debian's own Python: the official ones bring their headers)
RUN set -eu; if [ "$COMPILE" = 1 ]; then \
    headers=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")'); \
    apt-get update -qq; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        gcc libc6-dev $([ -e "$headers" ] || echo python3-dev) >/dev/null; fi
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip set -eu; \
    if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    if [ -f /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi; \
    python3 -m venv --without-pip /opt/sidecar; \
    python3 -m pip --python /opt/sidecar install -q --only-binary :all: --require-hashes -r requirements.lock; \
    python3 -m venv /opt/build; \
    /opt/build/bin/pip install -q --only-binary :all: --require-hashes -r requirements-build.lock
COPY pyproject.toml hatch_build.py README.md ./
COPY sidecar sidecar
RUN set -eu; \
    HATCH_BUILD_HOOKS_ENABLE="$COMPILE" /opt/build/bin/pip wheel -q --no-deps --no-build-isolation --no-index -w /dist .; \
    python3 -m pip --python /opt/sidecar install -q --no-deps --no-index --no-compile /dist/*.whl; \
    find /opt/sidecar -name tests -type d -path '*/site-packages/*' -prune -exec rm -rf {} +; \
    /opt/sidecar/bin/python -m compileall -q -j 0 /opt/sidecar/lib

FROM python:3.13-slim
LABEL org.opencontainers.image.title="token-sidecar" \
      org.opencontainers.image.description="Puts the right OAuth bearer token on a legacy application's requests" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/sidecar /opt/sidecar
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/sidecar
ENV PATH=/opt/sidecar/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
# the default store, sqlite:sidecar.db, is relative to here
WORKDIR /var/lib/sidecar
VOLUME /var/lib/sidecar
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["sidecar", "healthcheck"]
ENTRYPOINT ["sidecar"]
CMD ["run"]
