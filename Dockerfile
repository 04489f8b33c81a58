# together-relay: one static binary on an empty root file system.
#
#   docker build -t together-relay --build-arg VERSION=1.2.3 .
#   docker run -e TOGETHER_WEBHOOK_SECRET -p 8080:8080 -v relay-data:/data together-relay
#
# Without NATS_URL the relay runs its embedded NATS server and keeps the stream in /data. Mount a
# volume there. Any other verb works too: docker run together-relay version.
#
# Both the classic builder and BuildKit can build this file.

ARG GO_VERSION=1.26.8
FROM golang:${GO_VERSION}-alpine AS build
WORKDIR /src

# The modules are a layer of their own: they change less often than the code.
COPY go.mod go.sum ./
RUN go mod download

COPY . .
ARG VERSION=devel
ENV CGO_ENABLED=0
RUN go build -trimpath -buildvcs=false -ldflags "-s -w -X main.buildVersion=${VERSION}" -o /out/together-relay ./cmd/together-relay
RUN mkdir -p /owned/data /owned/access

FROM scratch
ARG VERSION=devel
LABEL org.opencontainers.image.title="together-relay" \
      org.opencontainers.image.description="Signed webhooks to CloudEvents on NATS JetStream" \
      org.opencontainers.image.version="${VERSION}"

COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/together-relay /together-relay

# /data belongs to the relay's user, and so does /access, where docker-compose.yml keeps what NATS has to
# know. A new named volume takes its owner from here.
COPY --from=build --chown=65532:65532 /owned/ /
USER 65532:65532
ENV RELAY_DATA_DIR=/data
VOLUME /data

EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s --retries=3 CMD ["/together-relay", "health"]
ENTRYPOINT ["/together-relay"]
CMD ["serve"]
