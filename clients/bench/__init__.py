"""A load generator that measures a running server with many concurrent clients.

    workload   what to send, and when: a plan, pure data      workloads/*.py, plan.py
    target     something that streams tokens                  target.py, grpc_target.py
    drive      carries a plan out, and writes records         drive.py, record.py
    report     what the records say: pure functions           measures.py, report.py

A workload is one file in `workloads/`, and its line in the table there. A
target is one file that implements `target.Target`.
"""
