# A program that only sees heed declared, and programs of one file that does and one that compiles its own. The same
# functions are in the library and in that file; the linker keeps those it meets first, so both orders are linked.
add_executable(consumer "${CMAKE_CURRENT_LIST_DIR}/main.cpp")
target_link_libraries(consumer PRIVATE heed::compiled)

foreach(unit IN ITEMS declared own mixed)
  add_library(${unit} OBJECT "${CMAKE_CURRENT_LIST_DIR}/${unit}.cpp")
  target_link_libraries(${unit} PRIVATE heed::heed)
endforeach()
target_link_libraries(declared PRIVATE heed::compiled)
add_executable(consumer_own_first $<TARGET_OBJECTS:own> $<TARGET_OBJECTS:declared> $<TARGET_OBJECTS:mixed>)
add_executable(consumer_declared_first $<TARGET_OBJECTS:declared> $<TARGET_OBJECTS:own> $<TARGET_OBJECTS:mixed>)
foreach(program IN ITEMS consumer_own_first consumer_declared_first)
  target_link_libraries(${program} PRIVATE heed::compiled)
endforeach()
