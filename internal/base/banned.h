/* Force-included for our own code: functions that the house style forbids become errors that name them. */
#ifndef KF_BANNED_H
#define KF_BANNED_H
#define strcpy banned_strcpy_use_buf_or_str_put
#define strcat banned_strcat_use_buf
#define strncpy banned_strncpy_use_span_to_cstr
#define sprintf banned_sprintf_use_buf_fmt
#define vsprintf banned_vsprintf_use_buf_vfmt
#define strtok banned_strtok_use_span_next
#define atoi banned_atoi_use_span_to_u64
#define atol banned_atol_use_span_to_u64
#define strtol banned_strtol_use_span_to_i64
#define strtoul banned_strtoul_use_span_to_u64
#define sscanf banned_sscanf_use_span
#define gets banned_gets
#define alloca banned_alloca
#define popen banned_popen_use_sys_spawn
#define localtime banned_localtime
#define gmtime banned_gmtime_use_time_rfc3339
#define usleep banned_usleep_use_a_timer
#endif
