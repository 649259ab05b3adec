"""The record that a service's calls leave in the audit log.

An event is durable in the service's own spool before its call may end with OK; the spool hands it on to the audit
service. While the spool cannot be written, events go to the audit service directly. When neither has an event,
nothing was proven: the caller gets UNAVAILABLE instead of OK, and a change that had not been announced is not begun.

Whatever is about to change something says so first: the event BEGUN is durable before the change, and names what will
be changed; the event ENDED names what was. If the process dies in between, the next one finds what was left open and
closes it with INTERRUPTED. So every change has its event, and no event claims what did not happen.

    record.py      what one call leaves: servicers fill it in (``current_record()``)
    recorder.py    makes events durable, in a spool or around it, and knows whether that works
    effects.py     runs a change between its two events
    delivery.py    opens a service's spool, and hands its events on to the audit service
"""
