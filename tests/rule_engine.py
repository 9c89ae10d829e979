"""An engine that answers by a rule, to be given to a judge behind its real prompts."""

from lightning_modules.generation.batches import serve_in_batches


class RuleEngine:
    """A subclass gives `answer(request, number)`, a GeneratedText for each sample; `asked` holds the requests."""

    needs_all_ranks = False

    def __init__(self):
        self.asked = []

    def attach(self, model, processor):
        pass

    def sample(self, requests, parameters):
        self.asked += requests
        return [[self.answer(request, n) for n in range(len(request.sample_keys))] for request in requests]

    def serve(self, source, parameters):
        serve_in_batches(self, source, parameters, 8)

    @staticmethod
    def question(request):
        """The text of the last turn."""
        return request.messages[-1]["content"][-1]["text"]
