"""The exam summary as a sink: gathers the run and writes exam.json and exam.html at its end."""

from pathlib import Path

from edge.analysis import Analysis
from edge.atomic import make_folder
from edge.errors import SinkError
from edge.exam import FILES, Exam, write_exam
from edge.stream import Result


class ExamSink:
    """Writes the exam summary to `folder`, made where it does not exist, when it is closed; none where no result came.

    source, started: for the reader (see `edge.exam.Exam`). Raises SinkError where nothing can be written there, and where an exam
    is there already: it may be another patient's.
    """

    def __init__(self, folder: Path | str, *, source: str, started: str) -> None:
        self._folder = Path(folder)
        make_folder(self._folder)  # said before the run, not at its end
        for name in FILES:
            if (self._folder / name).exists():
                raise SinkError(f"{self._folder / name}: exists already and is not written over; name another folder")
        self._exam = Exam(source, started=started)
        self._begun = False

    def write(self, result: Result[Analysis]) -> None:
        """Take one result in; a failed frame has nothing to say."""
        self._begun = True
        if result.found is not None:
            self._exam.add(result.found)

    def close(self) -> None:
        """Write the summary. Raises SinkError."""
        if self._begun:
            write_exam(self._folder, self._exam.summary())
