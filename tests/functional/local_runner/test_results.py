"""What outlives a job: checkpoints, artifacts; and jobs of more than one process."""

from __future__ import annotations

from typing import Any

BUCKET = "bucket"


# Checkpoints


def test_checkpoints_follow_the_folder_while_the_job_runs(site: Any) -> None:
    site.put("checkpoints/run/old/state", "from the last job")
    script = (
        "cd $SAGEMAKER_BASE_DIR/checkpoints; cat old/state; echo; rm -r old; mkdir -p new tmp-next;"
        "echo 1 > new/state; echo half > tmp-next/state;"
        "until [ -e $SAGEMAKER_BASE_DIR/go ]; do sleep 0.05; done;"
        "echo 22 > new/state"
    )
    config = {"S3Uri": f"s3://{BUCKET}/checkpoints/run", "LocalPath": "/opt/ml/checkpoints"}
    job = site.add_shell("syncs", script, CheckpointConfig=config)
    runner = site.start(job)
    site.wait_until(lambda: site.keys("checkpoints/") == ["checkpoints/run/new/state"], "the first sync")
    assert site.book.get(job)["SecondaryStatus"] == "Training"
    (site.root / "jobs" / job / "opt/ml/go").touch()
    assert site.finish(job, runner)["TrainingJobStatus"] == "Completed"
    assert site.read("checkpoints/run/new/state") == b"22\n"
    assert site.keys("checkpoints/") == ["checkpoints/run/new/state"]
    assert "from the last job" in site.log(job)


def test_interrupted_job_goes_on_from_its_checkpoint(site: Any) -> None:
    job = site.add_training(
        "spot",
        "resumes.py",
        EnableManagedSpotTraining=True,
        CheckpointConfig={"S3Uri": f"s3://{BUCKET}/checkpoints/spot/"},
    )
    runner = site.start(job)
    site.wait_for_line(job, "ready")
    site.ask(job, "interrupt", runner)
    document = site.finish(job, runner)
    assert document["TrainingJobStatus"] == "Completed"
    first = ["Starting", "Downloading", "Training", "Interrupted"]
    assert site.statuses(document) == [*first, "Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert [line for line in site.log(job) if line.startswith("starting after")] == [
        "starting after step 0",
        "starting after step 1",
    ]
    assert site.read_archive("output/spot/output/model.tar.gz") == {"adapter.txt": "resumed after 1"}
    assert site.keys("checkpoints/") == [f"checkpoints/spot/checkpoint-{step}/state.txt" for step in (1, 2, 3)]
    assert document["BillableTimeInSeconds"] <= document["TrainingTimeInSeconds"]
    assert site.book.asked(job) is None


def test_checkpoint_path_outside_opt_ml_is_refused(site: Any) -> None:
    config = {"S3Uri": f"s3://{BUCKET}/checkpoints/", "LocalPath": "/opt/ml/../../etc"}
    reason = site.run(site.add_shell("outside", "echo never", CheckpointConfig=config))["FailureReason"]
    assert "CheckpointConfig.LocalPath" in reason


# Artifacts


def test_uncompressed_output_keeps_its_files(site: Any) -> None:
    script = "cd $SAGEMAKER_BASE_DIR; mkdir model/sub;echo a > model/a; echo b > model/sub/b; echo c > output/data/c"
    config = {"S3OutputPath": f"s3://{BUCKET}/output/", "CompressionType": "NONE"}
    document = site.run(site.add_shell("plain", script, OutputDataConfig=config))
    assert document["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{BUCKET}/output/plain/output/model/"
    assert site.keys("output/") == [
        "output/plain/output/data/c",
        "output/plain/output/model/a",
        "output/plain/output/model/sub/b",
    ]


def test_bucket_that_is_gone_at_the_end_is_named(site: Any) -> None:
    config = {"S3OutputPath": "s3://other-bucket/output"}
    script = "echo a > $SAGEMAKER_BASE_DIR/model/a"
    reason = site.run(site.add_shell("homeless", script, OutputDataConfig=config))["FailureReason"]
    assert reason.startswith("ClientError: the results cannot be written to s3://other-bucket/output/homeless/")


# More than one process


def test_torchrun_starts_the_processes_that_are_asked_for(site: Any) -> None:
    job = site.add_training(
        "pair",
        "two_processes.py",
        HyperParameters={
            "sagemaker_torch_distributed_enabled": "true",
            "sagemaker_mpi_num_of_processes_per_host": "2",
        },
    )
    document = site.run(job)
    assert document["TrainingJobStatus"] == "Completed", site.log(job)
    assert site.read_archive("output/pair/output/model.tar.gz") == {"sum.txt": "2 processes, sum 3"}
    assert any("torchrun starts one process for each GPU" in line for line in site.log(job))


def test_a_job_without_a_network_gets_its_code_from_a_channel(site: Any) -> None:
    bundle = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/source/sourcedir.tar.gz"}}
    job = site.add_training(
        "isolated",
        "report.py",
        files={"train.py": "print('the code came')"},
        EnableNetworkIsolation=True,
        InputDataConfig=[{"ChannelName": "code", "DataSource": bundle}],
        HyperParameters={"sagemaker_submit_directory": '"/opt/ml/input/data/code/sourcedir.tar.gz"'},
    )
    document = site.run(job)
    assert document["TrainingJobStatus"] == "Completed", site.log(job)
    assert "the code came" in site.log(job)
