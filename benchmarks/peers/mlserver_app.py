"""MLServer: a custom runtime on its pool of worker processes, over gRPC, as advised for binary data.

All outputs travel as one BYTES tensor: MLServer turns tensors of numbers into Python lists, an object for each pixel.
"""

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput, TensorData

from benchmarks.peers.answering import answer, pipeline


class Answering(MLModel):
    async def load(self) -> bool:
        self.pipeline = pipeline()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        encoded = payload.inputs[0].data[0]
        data = TensorData([answer(self.pipeline, encoded)])
        output = ResponseOutput(name="answer", shape=[1], datatype="BYTES", data=data)
        return InferenceResponse(model_name=self.name, outputs=[output])
