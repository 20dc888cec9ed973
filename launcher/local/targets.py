"""What a schedule may call on this machine: SageMaker's CreateTrainingJob, SNS's Publish, SQS's SendMessage."""

from __future__ import annotations

import json
import re
from typing import Any

from launcher.local.jobs import JobBook, UnknownJob
from launcher.local.json_protocol import ApiError, Params, check_params, validation_error
from launcher.local.moto_parts import MotoParts
from launcher.local.training import TrainingJobs

CREATE_JOB, PUBLISH, SEND = "sagemaker:createTrainingJob", "sns:publish", "sqs:sendMessage"
UNIVERSAL = re.compile(r"arn:aws[a-z-]*:scheduler:::aws-sdk:([a-z0-9]+:[a-zA-Z0-9]+)")
ATTRIBUTE = re.compile(r"<aws\.scheduler\.[a-z-]+>")
MAX_INPUT_BYTES = 256 * 1024


class Targets:
    def __init__(self, training: TrainingJobs, jobs: JobBook, moto: MotoParts) -> None:
        self._training = training
        self._jobs = jobs
        self._moto = moto

    def check(self, target: Params) -> None:
        """Raise what CreateSchedule answers to a target that could never be called."""
        match = UNIVERSAL.fullmatch(target["Arn"])
        if match is None or match[1] not in (CREATE_JOB, PUBLISH, SEND):
            arns = ", ".join(f"arn:aws:scheduler:::aws-sdk:{call}" for call in (CREATE_JOB, PUBLISH, SEND))
            raise validation_error(f"The local endpoint cannot call {target['Arn']}; it can call {arns}.")
        text = target.get("Input")
        if text is None:
            raise validation_error(f"A target {match[1]} needs an Input: the request as JSON.")
        if len(text.encode()) > MAX_INPUT_BYTES:
            raise validation_error(f"Target.Input has {len(text.encode()):,} bytes; {MAX_INPUT_BYTES:,} are allowed.")
        _parse(ATTRIBUTE.sub("1", text))

    def call(self, arn: str, payload: str, *, is_repeated: bool) -> str:
        """The name of the job that was made, or the id of the message; raises ApiError as the service would."""
        call = arn.rpartition("aws-sdk:")[2]
        params = _parse(payload)
        if call == CREATE_JOB:
            return self._create_job(params, is_repeated)
        if call == PUBLISH:
            check_params("sns", "Publish", params)
            topic = params.get("TopicArn") or params.get("TargetArn") or ""
            return self._moto.publish(topic, params["Message"], params.get("Subject"))
        check_params("sqs", "SendMessage", params)
        return self._moto.send_message(params["QueueUrl"].rpartition("/")[2], params["MessageBody"])

    def bury(self, queue_arn: str, payload: str, attributes: dict[str, str]) -> None:
        """Put a firing that failed for good into its dead-letter queue."""
        self._moto.send_message(queue_arn.rpartition(":")[2], payload, attributes)

    def _create_job(self, params: Params, is_repeated: bool) -> str:
        try:
            self._training.call("CreateTrainingJob", params)
        except ApiError as error:
            # The endpoint may have been killed when the job was made and the book did not know yet.
            if not (is_repeated and error.code == "ResourceInUse" and self._is_made(params)):
                raise
        return str(params["TrainingJobName"])

    def _is_made(self, params: Params) -> bool:
        try:
            return self._jobs.request(params["TrainingJobName"]) == params
        except UnknownJob:
            return False


def _parse(text: str) -> dict[str, Any]:
    try:
        params = json.loads(text)
    except ValueError as error:
        raise validation_error(f"Target.Input is not JSON: {error}") from error
    if not isinstance(params, dict):
        raise validation_error("Target.Input is not a JSON object.")
    return params
