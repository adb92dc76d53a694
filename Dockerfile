# The command line with the bundled model, for any user id and without network: docs/cluster.md.
FROM python:3.12-slim
COPY . /opt/SAM3DSegment
RUN pip install --no-cache-dir --constraint /opt/SAM3DSegment/constraints.txt "/opt/SAM3DSegment[dicom]"
ENV SAM3DSEGMENT_CACHE=/tmp
WORKDIR /tmp
ENTRYPOINT ["sam3dsegment"]
