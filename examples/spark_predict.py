"""Label the images of a folder with Spark; writes a folder of Parquet files.

spark-submit examples/spark_predict.py bundles/quickstart photos labels

The student is loaded once for each partition. Photos and labels are paths or URLs that all machines reach;
the bundle is a path that all can read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pandas as pd
import pyarrow as pa
from pyspark.sql import SparkSession

from vl2v_deploy.scale.ray import StudentActor

ROWS = "path string, label string, probability double, abstained boolean, precision string, error string"


def main(bundle: str, photos: str, out: str) -> None:
    spark = SparkSession.builder.appName("label").getOrCreate()
    # Of encoded images; Spark's default of 10,000 rows in a batch would be gigabytes.
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "32")

    def label(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        student = StudentActor(bundle, image="content")
        for frame in frames:
            yield student(pa.Table.from_pandas(frame, preserve_index=False)).to_pandas()

    files = spark.read.format("binaryFile").option("recursiveFileLookup", True).load(photos)
    files.select("path", "content").mapInPandas(label, ROWS).write.mode("errorifexists").parquet(out)
    spark.stop()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
