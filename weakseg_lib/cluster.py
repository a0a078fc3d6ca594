"""Work for several processes, by Dask: on this machine, or wherever a scheduler has workers."""

from contextlib import contextmanager

from tqdm.auto import tqdm

from weakseg_lib.device import pick_device
from weakseg_lib.errors import InputError

MANY = 8  # stacks for which workers are worth the seconds that they take to start
WORKER_MEMORY = 5 * 2**29  # bytes that a worker on this machine should find; a tile was seen to take 2.1 GiB
KEPT = 2**25  # bytes of freed memory that a worker keeps for the next stack
PATIENCE = "20s"  # for a scheduler to answer


@contextmanager
def connect(scheduler=None, workers=0, stacks: int = 1, device: str = "auto"):
    """Give a Dask client, or None where the work is best done in this process.

    scheduler: an address like tcp://HOST:8786, or "local": workers on this machine, which end with the block. workers:
    how many of these; 0 or 1 are none unless "local" asks for them, None lets the number of `stacks`, the cores and
    the memory decide. Raises InputError where Dask is not installed or no scheduler answers.
    """
    if workers is not None and workers < 0:
        raise InputError(f"--workers {workers}", "is negative", "give 0 or more")
    try:
        import dask
        from dask.system import CPU_COUNT
        from distributed import Client, LocalCluster
        from distributed.system import MEMORY_LIMIT
    except ImportError as error:
        if scheduler is None and (workers or 0) < 2:
            yield None
            return
        fix = 'run `pip install "weakseg_lib[cluster]"`, or leave --scheduler and --workers out'
        raise InputError("--scheduler and --workers", "need Dask, which is not installed", fix) from error
    if workers is None or (scheduler == "local" and not workers):
        worth_it = scheduler == "local" or (stacks >= MANY and pick_device(device).type == "cpu")
        workers = max(1, min(CPU_COUNT, stacks, MEMORY_LIMIT // WORKER_MEMORY)) if worth_it else 0
    if scheduler not in (None, "local"):
        try:
            client = Client(scheduler, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            fix = "start one with `dask scheduler`, or check the address"
            raise InputError(f"--scheduler {scheduler}", "no Dask scheduler answers there", fix) from error
        with client:
            yield client
    elif scheduler is None and workers < 2:
        yield None
    else:
        # One task at a time in a worker, none waiting; the cores that are left over go to torch.
        environ = {"OMP_NUM_THREADS": max(1, CPU_COUNT // workers)}
        # Dask has glibc give memory back at once: a third of the time went into getting it again.
        environ |= dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), KEPT)
        settings = {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in environ.items()}
        settings["distributed.scheduler.worker-saturation"] = 1.0
        settings["distributed.worker.profile.enabled"] = False  # a history that grows by the second
        local = {"n_workers": workers, "threads_per_worker": 1, "silence_logs": "ERROR"}
        local["dashboard_address"] = "127.0.0.1:0"  # any free port: two runs at once are no warning
        with (
            dask.config.set(settings),
            LocalCluster(**local) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client


def each(client, function, run, tasks, *, desc, unit, where, progress=True, done=0):
    """Yield (number of the task, function(run, task)) for every one of `tasks` as they end, with a progress bar.

    client: of `connect`; None does them one after another in this process. run: a `Run`, or with a client a future of
    it, so that every worker gets it once. where(task): the file to name when something is wrong. done: what the bar
    starts from.

    A worker that dies costs what it was doing, which goes to another. Raises InputError: without a client for the
    first task that does, with one when all others have ended.
    """
    with tqdm(total=done + len(tasks), initial=done, desc=desc, unit=unit, disable=not progress) as bar:
        if client is None:
            for number, task in enumerate(tasks):
                bar.set_postfix_str(where(task).name)
                yield number, function(run, task)
                bar.update()
            return
        if not client.scheduler_info()["workers"]:
            bar.set_postfix_str("waiting for a worker")
        options = {"function": function, "run": run, "pure": False}
        futures = client.map(_attempt, tasks, **options)
        wrong = []
        for number, result in _results(client, futures, tasks, options, where):
            bar.update()
            if isinstance(result, InputError):
                wrong.append(result)
            else:
                yield number, result
        if wrong:
            more = f" (and {len(wrong) - 1} more failed; the others are done)" if len(wrong) > 1 else ""
            raise InputError(wrong[0].where, wrong[0].problem + more, wrong[0].fix)


def _results(client, futures, tasks, options, where):
    """Yield (number, result or InputError) as the futures of `tasks` end. One whose workers died is tried once more,
    alone, when all others have ended: it may only have waited beside the task that killed them."""
    from distributed import KilledWorker, as_completed

    numbers, killed = {future.key: number for number, future in enumerate(futures)}, []
    for future in as_completed(futures, loop=client.loop):
        number = numbers[future.key]
        try:
            yield number, _outcome(future, where(tasks[number]))
        except KilledWorker:
            killed.append(number)
    for number in killed:
        name = where(tasks[number])
        try:
            yield number, _outcome(client.submit(_attempt, tasks[number], **options), name)
        except KilledWorker:
            fix = "use fewer workers, or workers with more memory"
            yield number, InputError(name, "every worker that tried it died", fix)


def _outcome(future, where):
    """What a task gave; where it failed, an InputError, as the others must go on. Raises KilledWorker alone."""
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker:
        raise
    except Exception as error:
        problem = f"a worker failed at it ({type(error).__name__}: {error})"
        return InputError(where, problem, "run it alone with `--workers 0` to see all that is known")


def _attempt(task, function, run):
    """A user's mistake is a result, not a failure: Dask would log a traceback for it on every worker."""
    try:
        return function(run, task)
    except InputError as error:
        return error
