# The demo's S3 server, for a cluster of yours: make tools-api && docker build -f tests/demo/s3.Dockerfile .cluster/bin
FROM scratch
COPY versitygw /versitygw
USER 65532:65532
ENTRYPOINT ["/versitygw"]
