"""What the operator has switched of the whole service."""

from mcp_gateway.core.service_notice import NoticeChanged, NoticeKept, ServiceNotice, SwitchMaintenance, TellIncident
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

_KEPT = "SELECT is_in_maintenance, incident FROM service_notice"


def _switch_maintenance(transaction: Transaction, write: SwitchMaintenance) -> None:
    transaction.execute("UPDATE service_notice SET is_in_maintenance = ?", (write.is_on,))
    _tell(transaction)


def _tell_incident(transaction: Transaction, write: TellIncident) -> None:
    transaction.execute("UPDATE service_notice SET incident = ?", (write.incident,))
    _tell(transaction)


def _tell(transaction: Transaction) -> None:
    transaction.tell(NoticeChanged(transaction.ask(NoticeKept())))


def _kept(rows: Rows, _: NoticeKept) -> ServiceNotice:
    ((is_in_maintenance, incident),) = rows.all(_KEPT)
    return ServiceNotice(bool(is_in_maintenance), incident)


EXECUTORS = Executors(
    alone={SwitchMaintenance: _switch_maintenance, TellIncident: _tell_incident}, reads={NoticeKept: _kept}
)
