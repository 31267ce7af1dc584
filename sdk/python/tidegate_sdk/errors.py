"""Why a plugin has no answer."""


class Retry(Exception):
    """Not now: the producer gets a retriable error."""


class Failed(Exception):
    """The plugin cannot answer; what then happens to the records is the attachment's policy (`tidegate.router.on.failure` and so on).

    Any other exception that leaves a plugin counts as this one, with its type and place as the reason.
    """


def words(error: BaseException) -> str:
    """What an operator reads of an exception: its text alone where the author raised it for them, else its type and where it came from."""
    if isinstance(error, (Retry, Failed, ValueError)) and type(error) in (Retry, Failed, ValueError):
        return str(error) or type(error).__name__
    if isinstance(error, KeyError):
        text = f"there is no {error.args[0]!r}" if error.args else "a key is missing"
    else:
        text = f"{type(error).__name__}: {error}"
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return text
    code = trace.tb_frame.f_code
    return f"{text} ({code.co_filename.rsplit('/', 1)[-1]}, line {trace.tb_lineno})"
